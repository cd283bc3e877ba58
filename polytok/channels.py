"""gRPC channels to the services: options, retries, deadlines, and errors as exceptions."""

import json
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import status_pb2  # type: ignore[import-untyped]

from polytok import errors
from polytok.errors import codec

MAX_MESSAGE_BYTES = 64 << 20
"""The largest message that either side accepts."""

DEADLINE_SECONDS = 60
"""Default deadline of a call."""

KEEPALIVE_SECONDS = 30
"""How often a client pings an idle connection; servers allow a ping every SERVER_KEEPALIVE_SECONDS."""

SERVER_KEEPALIVE_SECONDS = 10
"""The shortest interval between pings that a server accepts; it closes the connection of a faster client."""

MAX_METADATA_BYTES = 64 << 10
"""The most metadata that either side accepts; errors need less than gRPC's default of 8 KiB."""

STATUS_DETAILS = "grpc-status-details-bin"
"""The trailing metadata key of a serialized google.rpc.Status."""

# These publish files before they respond.
_LONG_CALLS = {"/polytok.jobs.v1.LeaseService/CompleteTask": 600}

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def deadline_seconds(method: str) -> float:
    """Return the deadline of a unary call of `/service/Method`."""
    return _LONG_CALLS.get(method, DEADLINE_SECONDS)


class Deadlines(grpc.UnaryUnaryClientInterceptor):
    """Sets the deadline of calls that have none.

    The `timeout` of a service config would not need an interceptor, but it is not sent to the server, and gRPC 1.85
    starts counting it up to two seconds before the call.
    """

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Continue the call with a deadline."""
        return continuation(_with_deadline(client_call_details), request)


class AsyncDeadlines(grpc.aio.UnaryUnaryClientInterceptor):
    """Sets the deadline of calls that have none, for asyncio."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        """Continue the call with a deadline."""
        return await continuation(_with_deadline(client_call_details), request)


def _with_deadline(details: Any) -> Any:
    if details.timeout is not None:
        return details
    method = details.method if isinstance(details.method, str) else details.method.decode()
    return details._replace(timeout=deadline_seconds(method))


def service_config() -> str:
    """Return the gRPC service config: calls are retried while a peer is unavailable."""
    return json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _RETRY_POLICY}]})


_LOOPBACK = ("127.", "localhost:", "[::1]:")


def channel_options(address: str = "", user_agent: str = "polytok") -> Sequence[tuple[str, Any]]:
    """Return the options of every channel."""
    return (
        # gRPC would otherwise use the proxy in http_proxy even for loopback addresses.
        ("grpc.enable_http_proxy", 0 if address.startswith(_LOOPBACK) else 1),
        ("grpc.primary_user_agent", user_agent),
        ("grpc.service_config", service_config()),
        ("grpc.enable_retries", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # Reconnect to a restarted service within seconds; gRPC's default is up to two minutes.
        ("grpc.max_reconnect_backoff_ms", 3_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
    )


def credentials(tls_ca: str, tls_certificate: str = "", tls_key: str = "") -> grpc.ChannelCredentials | None:
    """Return TLS credentials from PEM files, or None for plaintext if no authority is given."""
    if not tls_ca:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=read_pem(tls_ca),
        private_key=read_pem(tls_key) if tls_key else None,
        certificate_chain=read_pem(tls_certificate) if tls_certificate else None,
    )


def read_pem(path: str) -> bytes:
    """Return the bytes of a certificate or key file."""
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise errors.InvalidArgument(f"The TLS file {path} cannot be read: {error.strerror}.") from error


def open_channel(address: str, tls_ca: str = "", tls_certificate: str = "", tls_key: str = "") -> grpc.Channel:
    """Open a channel for synchronous stubs."""
    secure = credentials(tls_ca, tls_certificate, tls_key)
    channel = (
        grpc.insecure_channel(address, options=channel_options(address))
        if secure is None
        else grpc.secure_channel(address, secure, options=channel_options(address))
    )
    return grpc.intercept_channel(channel, Deadlines())


def open_async_channel(
    address: str,
    tls_ca: str = "",
    tls_certificate: str = "",
    tls_key: str = "",
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    user_agent: str = "polytok",
) -> grpc.aio.Channel:
    """Open a channel for asyncio stubs."""
    secure = credentials(tls_ca, tls_certificate, tls_key)
    options = channel_options(address, user_agent)
    chain = [AsyncDeadlines(), *interceptors]
    if secure is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=chain)
    return grpc.aio.secure_channel(address, secure, options=options, interceptors=chain)


_REFUSED = re.compile(r"ipv[46]:(\S+): .*Connection refused")
"""The part of gRPC's text about an address that nothing listens on."""
# Advice for statuses that gRPC itself raises; our services' errors carry their own.
_ADVICE = {
    grpc.StatusCode.UNAVAILABLE: "The service is unavailable. Check its address and that it runs. ({})",
    grpc.StatusCode.DEADLINE_EXCEEDED: "The deadline passed before a response; the call may have been executed. ({})",
    grpc.StatusCode.UNIMPLEMENTED: "The service does not implement this method; it has another version. ({})",
}


def from_rpc_error(error: grpc.RpcError) -> errors.PolytokError:
    """Return the error that the service raised, or one for gRPC's own status."""
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN
    text = (error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else str(error)) or code.name
    found = codec.from_status(_status(error))
    if found is None and (refused := _REFUSED.search(text)):
        address = urllib.parse.unquote(refused[1])
        return errors.Unavailable(
            f"{address} refused the connection: no service listens there. Check the address; `polytok up` starts a "
            "stack on this machine."
        )
    return codec.class_of(code.value[0])(_ADVICE.get(code, "{}").format(text)) if found is None else found


def _status(error: grpc.RpcError) -> status_pb2.Status:
    trailing = error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    for key, value in trailing or ():
        if key == STATUS_DETAILS:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()
