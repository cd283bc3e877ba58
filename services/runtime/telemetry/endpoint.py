"""A small HTTP endpoint: /metrics (Prometheus), /livez and /readyz (Kubernetes probes).

It runs in the service's own event loop, so /livez answers only while that loop runs.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from polytok import errors
from services.runtime.settings import TelemetrySettings
from services.runtime.telemetry import metrics

_REQUEST_SECONDS = 5
_MAX_REQUEST_BYTES = 16 * 1024
_TEXT = "text/plain; charset=utf-8"

Missing = Callable[[], Awaitable[str]]
Trouble = Callable[[], str]


class Endpoint:
    """The endpoint of a process, on metrics_host:metrics_port.

    `missing` returns what keeps the process from its work, such as `database: it cannot be reached`, or nothing.
    `queue` returns the problem with the work queue, or an empty string. `/readyz?exclude=queue` leaves the queue
    out, for probes of a server that still answers calls and leases tasks without it.
    """

    def __init__(self, settings: TelemetrySettings, missing: Missing, queue: Trouble = lambda: "") -> None:
        self._settings = settings
        self._missing = missing
        self._queue = queue
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        host, port = self._settings.metrics_host, self._settings.metrics_port
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=_MAX_REQUEST_BYTES)
        except OSError as error:
            raise errors.InvalidArgument(
                f"Cannot listen on {host}:{port} (POLYTOK_METRICS_PORT): {error.strerror}."
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(request))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # The client is slow, gone, or does not speak HTTP; it cannot be answered.
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path, _, query = rest.partition(" ")[0].partition("?")
        if method not in {"GET", "HEAD"}:
            return _response("405 Method Not Allowed", b"Use GET or HEAD.\n")
        answer = await self._page(path, query)
        # HEAD keeps the length and omits the body (RFC 9110, 9.3.2).
        return answer if method == "GET" else answer[: answer.index(b"\r\n\r\n") + 4]

    async def _page(self, path: str, query: str) -> bytes:
        match path:
            case "/metrics":
                return _response("200 OK", metrics.render(), metrics.CONTENT_TYPE)
            case "/livez":
                return _response("200 OK", b"alive\n")
            case "/readyz":
                return await self._readiness(query)
        return _response("404 Not Found", b"Not found. Available paths: /metrics, /livez, /readyz.\n")

    async def _readiness(self, query: str) -> bytes:
        trouble = "" if "exclude=queue" in query.split("&") else self._queue()
        if trouble:
            return _response("503 Service Unavailable", f"not ready: queue: {trouble}\n".encode())
        if missing := await self._missing():
            return _response("503 Service Unavailable", f"not ready: {missing}\n".encode())
        return _response("200 OK", b"ready\n")


def _response(status: str, body: bytes, content_type: str = _TEXT) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
