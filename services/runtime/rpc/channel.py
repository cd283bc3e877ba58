"""Channels from one service to another: the client's transport, and the trace of the caller."""

from collections.abc import Callable
from typing import Any

import grpc.aio

from polytok import channels
from services.runtime.telemetry import tracing


def open_channel(
    address: str, *, tls_ca: str = "", tls_certificate: str = "", tls_key: str = "", service: str
) -> grpc.aio.Channel:
    """Open a channel whose calls carry the current trace; `service` names the caller in the server's logs."""
    return channels.open_async_channel(
        address,
        tls_ca,
        tls_certificate,
        tls_key,
        interceptors=(_UnaryTrace(), _StreamTrace()),
        user_agent=f"polytok-{service}",
    )


def _traced(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    headers = tracing.inject()
    if not headers:
        return details
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *headers.items())
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


class _UnaryTrace(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_traced(client_call_details), request)


class _StreamTrace(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_traced(client_call_details), request)
