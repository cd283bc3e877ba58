"""The gRPC server that every service runs."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from polytok import channels
from services.runtime.rpc.interceptors import Interceptor
from services.runtime.settings import ConfigurationError, ServerSettings
from services.runtime.telemetry import logging

_log = logging.get(__name__)

_OPTIONS = (
    ("grpc.max_receive_message_length", channels.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", channels.MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", channels.MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", channels.MAX_METADATA_BYTES),
    # Clients ping every KEEPALIVE_SECONDS, which is strictly less often than this limit.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", channels.SERVER_KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A port in use is an error, not a second server that gets every other call.
    ("grpc.so_reuseport", 0),
)

# How long clients have to read the end of their streams before connections close.
_LAST_WORDS_SECONDS = 1.0

Register = Callable[[Any, grpc.aio.Server], None]


class Server:
    """A gRPC server with health, reflection, our interceptor and, if set, TLS."""

    def __init__(self, settings: ServerSettings, *, service: str) -> None:
        self._settings = settings
        self._service = service
        self._interceptor = Interceptor()
        self._server = grpc.aio.server(interceptors=[self._interceptor], options=_OPTIONS)
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self.port = 0

    def add(self, register: Register, servicer: Any, service_full_name: str) -> None:
        """Serve one service: `add(leases_pb2_grpc.add_LeaseServiceServicer_to_server, servicer, "polytok.…")`."""
        register(servicer, self._server)
        self._names.append(service_full_name)

    async def start(self) -> int:
        """Start listening and report SERVING; return the port."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.port = self._bind()
        await self._server.start()
        await self.set_serving(True)
        _log.info("serving", address=f"{self._settings.host}:{self.port}", tls=bool(self._settings.tls_certificate))
        return self.port

    def _bind(self) -> int:
        host = self._settings.host
        address = f"[{host}]:{self._settings.port}" if ":" in host else f"{host}:{self._settings.port}"
        try:
            if not self._settings.tls_certificate:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, self._credentials())
        except RuntimeError as error:
            raise ConfigurationError(
                f"Cannot listen on {address}. Check POLYTOK_GRPC_HOST and POLYTOK_GRPC_PORT, and that the port is free."
            ) from error

    def _credentials(self) -> grpc.ServerCredentials:
        settings = self._settings
        pair = (channels.read_pem(settings.tls_key), channels.read_pem(settings.tls_certificate))
        authorities = channels.read_pem(settings.tls_client_ca) if settings.tls_client_ca else None
        return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)

    async def set_serving(self, serving: bool) -> None:
        """Report SERVING or NOT_SERVING to health checks, for the server and for each service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def drain(self) -> None:
        """Reject new calls, end streams, and let running calls finish within drain_seconds."""
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(self._settings.drain_seconds))
        # Health watchers receive NOT_SERVING before their stream ends.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await asyncio.shield(stopping)
        self._interceptor.end_streams()
        await stopping
        _log.info("drained")
