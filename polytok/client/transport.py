"""Transports send requests to a service. They are the only place in the client that blocks or awaits."""

from __future__ import annotations  # the stubs' generic types exist for type checkers only

import asyncio
import contextlib
import functools
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from polytok import channels, errors
from polytok.client import row_upload

Stub = TypeVar("Stub")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


class Transport(Protocol):
    """Sends requests over a channel that is opened on first use."""

    timeout: float
    """Seconds that one attempt of a call may take."""
    patience: float
    """Seconds for which a call is retried while the service is unavailable, beyond the channel's own four attempts."""

    def stub(self, kind: Callable[[Any], Stub]) -> Stub:
        """Return a stub on the channel."""

    async def unary(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request, seconds: float | None = None
    ) -> Response:
        """Return the response to a request. An attempt takes at most `seconds`, by default `timeout`.

        Raises the error that the service raised.
        """

    def stream(
        self, method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request, seconds: float | None
    ) -> AsyncGenerator[Response, None]:
        """Yield the responses to a request, until the service ends the stream or `seconds` have passed."""

    async def upload(
        self, method: grpc.StreamUnaryMultiCallable[Request, Response], sent: row_upload.Upload
    ) -> Response:
        """Return the response to a stream of requests.

        Raises the error in the rows, or the error that the service raised.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def close(self) -> None:
        """Close the channel. A transport that is used again opens another."""


class SyncTransport:
    """Blocks. Its coroutines never suspend, so `sync.run` runs them without an event loop."""

    def __init__(self, address: str, tls_ca: str, timeout: float, patience: float) -> None:
        self.timeout = timeout
        self.patience = patience
        self._open = functools.partial(channels.open_channel, address, tls_ca)
        self._channel: grpc.Channel | None = None

    def stub(self, kind: Callable[[Any], Stub]) -> Stub:
        """See Transport."""
        if self._channel is None:
            self._channel = self._open()
        return kind(self._channel)

    async def unary(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request, seconds: float | None = None
    ) -> Response:
        """See Transport."""

        async def once(request: Request) -> Response:
            with _translated_errors():
                return method(request, timeout=seconds or self.timeout)

        return await _call_with_retry(self, once, request)

    async def stream(
        self, method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request, seconds: float | None
    ) -> AsyncGenerator[Response, None]:
        """See Transport."""
        call = method(request, timeout=seconds)
        try:
            with _translated_errors():
                for response in call:
                    yield response
        finally:
            call.cancel()

    async def upload(
        self, method: grpc.StreamUnaryMultiCallable[Request, Response], sent: row_upload.Upload
    ) -> Response:
        """See Transport."""
        sent.identify()
        with _translated_errors(sent):
            return method(cast("Any", iter(sent)))

    async def sleep(self, seconds: float) -> None:
        """See Transport."""
        time.sleep(seconds)  # noqa: ASYNC251  this transport blocks

    async def close(self) -> None:
        """See Transport."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class AsyncTransport:
    """Awaits, on the event loop that uses it first."""

    def __init__(self, address: str, tls_ca: str, timeout: float, patience: float) -> None:
        self.timeout = timeout
        self.patience = patience
        self._open = functools.partial(channels.open_async_channel, address, tls_ca)
        self._channel: grpc.aio.Channel | None = None

    def stub(self, kind: Callable[[Any], Stub]) -> Stub:
        """See Transport."""
        if self._channel is None:
            self._channel = self._open()
        return kind(self._channel)

    async def unary(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request, seconds: float | None = None
    ) -> Response:
        """See Transport."""

        async def once(request: Request) -> Response:
            with _translated_errors():
                return await cast("Any", method)(request, timeout=seconds or self.timeout)  # type: ignore[no-any-return]

        return await _call_with_retry(self, once, request)

    async def stream(
        self, method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request, seconds: float | None
    ) -> AsyncGenerator[Response, None]:
        """See Transport."""
        call = cast("Any", method)(request, timeout=seconds)
        try:
            with _translated_errors():
                async for response in call:
                    yield response
        finally:
            call.cancel()

    async def upload(
        self, method: grpc.StreamUnaryMultiCallable[Request, Response], sent: row_upload.Upload
    ) -> Response:
        """See Transport."""
        sent.identify()
        with _translated_errors(sent):
            return await cast("Any", method)(aiter(sent))  # type: ignore[no-any-return]

    async def sleep(self, seconds: float) -> None:
        """See Transport."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """See Transport."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None


@contextlib.contextmanager
def _translated_errors(sent: row_upload.Upload | None = None) -> Iterator[None]:
    try:
        yield
    except (grpc.RpcError, asyncio.CancelledError) as error:
        # gRPC cancels a call if its iterator of requests raises.
        if sent is not None and sent.failure is not None:
            raise sent.failure from None
        if isinstance(error, asyncio.CancelledError):
            raise
        raise channels.from_rpc_error(error) from None


async def _call_with_retry(
    transport: Transport, once: Callable[[Request], Awaitable[Response]], request: Request
) -> Response:
    """Retry while the service is unavailable, as during a restart. The request id makes the call happen once."""
    identified = _with_request_id(request)
    pauses = iter(_backoff_seconds())
    end = time.monotonic() + transport.patience
    while True:
        try:
            return await once(identified)
        except errors.Unavailable:
            pause = next(pauses)
            if time.monotonic() + pause > end:
                raise
        await transport.sleep(pause)


def _backoff_seconds() -> Iterator[float]:
    """Yield the pauses between attempts: 0.2, 0.4, 0.8, and then 1 second each."""
    yield from (0.2, 0.4, 0.8)
    yield from itertools.repeat(1.0)


def _with_request_id(request: Request) -> Request:
    """Set the request id of a mutating request (AIP-155), so that retries do not repeat it."""
    if "request_id" in request.DESCRIPTOR.fields_by_name and not cast("Any", request).request_id:
        cast("Any", request).request_id = str(uuid.uuid4())
    return request
