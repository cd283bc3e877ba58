"""Convert an exception to a google.rpc.Status with details (AIP-193)."""

import secrets

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]

from polytok import channels, disk_space, errors
from polytok.errors import codec
from services.runtime.telemetry import logging

_log = logging.get(__name__)


def to_status(error: BaseException) -> status_pb2.Status:
    """Return the status of an error of ours; any other is logged under an id, and the caller gets only that id."""
    if isinstance(error, NotImplementedError):
        # The generated base class raises it for methods that a servicer does not implement.
        return status_pb2.Status(code=grpc.StatusCode.UNIMPLEMENTED.value[0], message="Unknown method.")
    if isinstance(error, grpc.RpcError):
        # A call to another service failed; its message is the best available.
        error = channels.from_rpc_error(error)
    elif not isinstance(error, errors.PolytokError):
        error = _full(error) if disk_space.is_full(error) else _internal(error)
    return codec.to_status(error)


def _full(error: BaseException) -> errors.ResourceExhausted:
    _log.error("disk full", error=str(error))
    named = getattr(error, "filename", None)
    return disk_space.full("the service was writing", str(named) if named else None)


def _internal(error: BaseException) -> errors.Internal:
    number = secrets.token_hex(6)
    _log.error("internal error", error_id=number, exc_info=error)
    return errors.Internal(f"Internal error {number}. See the service's log for details.", metadata={"id": number})
