"""From an exception to a google.rpc.Status with details (AIP-193)."""

import secrets

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from polytok import disk, errors, transport
from services.runtime.telemetry import logging

_log = logging.get(__name__)

# A status travels in headers, which are percent-encoded and limited by the peer (transport.MAX_METADATA_BYTES).
_MAX_MESSAGE_BYTES = 4000
_MAX_DESCRIPTION_BYTES = 500
_MAX_VIOLATIONS = 10


def to_status(error: BaseException) -> status_pb2.Status:
    """The status of an error of ours; any other is logged under an id, which is all that the caller learns."""
    if isinstance(error, NotImplementedError):
        # The generated base class raises it for methods that a servicer leaves out.
        return status_pb2.Status(code=grpc.StatusCode.UNIMPLEMENTED.value[0], message="There is no such call here.")
    if isinstance(error, grpc.RpcError):
        # A call to another service failed; its words are the best there are.
        error = transport.from_rpc_error(error)
    elif not isinstance(error, errors.PolytokError):
        error = _full(error) if disk.is_full(error) else _internal(error)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=errors.DOMAIN, metadata=error.metadata)
    if error.retryable != error.default_retryable:
        info.metadata[transport.RETRYABLE] = "true" if error.retryable else "false"
    details: list[Message] = [info]
    if error.violations:
        details.append(_bad_request(error))
    status = status_pb2.Status(code=_code(error), message=_short(error.message, _MAX_MESSAGE_BYTES))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _code(error: errors.PolytokError) -> int:
    kind = next(kind for kind in type(error).__mro__ if kind in transport.CODES)
    number: int = transport.CODES[kind].value[0]
    return number


def _full(error: BaseException) -> errors.ResourceExhausted:
    _log.error("disk full", error=str(error))
    named = getattr(error, "filename", None)
    return disk.full("the service was writing", str(named) if named else None)


def _internal(error: BaseException) -> errors.Internal:
    number = secrets.token_hex(6)
    _log.error("internal error", error_id=number, exc_info=error)
    return errors.Internal(f"Internal error {number}; the service's log has the details.", metadata={"id": number})


def _bad_request(error: errors.PolytokError) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for violation in error.violations[:_MAX_VIOLATIONS]:
        description = _short(violation.description, _MAX_DESCRIPTION_BYTES)
        request.field_violations.add(field=_short(violation.field, _MAX_DESCRIPTION_BYTES), description=description)
    return request


def _short(text: str, limit: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= limit else f"{encoded[: limit - 3].decode(errors='ignore')}…"
