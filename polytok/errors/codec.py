"""Convert errors to and from the message `polytok.errors.v1.Error` and the equivalent gRPC status.

The message carries an error from a task process to its worker, to the server that owns the task, to the record, and to
every reader of the record. Long values are truncated, and omitted entries are counted.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]

from polytok import errors
from polytok.errors.v1 import errors_pb2

MAX_BYTES = 16 << 10
"""The maximum size of a message."""
MAX_STATUS_BYTES = 3600
"""The maximum size of a message in a status. In headers, which hold 8 KiB by default, it takes a third more, and the
text occurs twice."""
MAX_DETAILS_BYTES = 600
"""The maximum size of the text beside a status, where a byte may take three."""
OMITTED = "omitted"
"""The metadata key for the number of omitted entries."""

_RETRYABLE = "retryable"
_MAX_REASON = 64
_MAX_VALUE_BYTES = 500
_TAIL_BYTES = 64

CODES: dict[type[errors.PolytokError], int] = {
    errors.InvalidArgument: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
    errors.FailedPrecondition: code_pb2.FAILED_PRECONDITION,
    errors.Aborted: code_pb2.ABORTED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.ResourceExhausted: code_pb2.RESOURCE_EXHAUSTED,
    errors.Cancelled: code_pb2.CANCELLED,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.DataLoss: code_pb2.DATA_LOSS,
    errors.Internal: code_pb2.INTERNAL,
}
"""The google.rpc.Code of each class of errors."""

_CLASSES: dict[int, type[errors.PolytokError]] = {
    **{code: kind for kind, code in CODES.items()},
    code_pb2.UNAUTHENTICATED: errors.PermissionDenied,
    code_pb2.OUT_OF_RANGE: errors.InvalidArgument,
    code_pb2.UNIMPLEMENTED: errors.FailedPrecondition,
}

_Detail = TypeVar("_Detail", bound=Message)


def class_of(code: int) -> type[errors.PolytokError]:
    """Return the class of errors for a google.rpc.Code."""
    return _CLASSES.get(code, errors.Internal)


def to_message(error: errors.PolytokError, limit_bytes: int = MAX_BYTES) -> errors_pb2.Error:
    """Return the message of an error, limited to about `limit_bytes`."""
    kind = next(each for each in type(error).__mro__ if each in CODES)
    message = errors_pb2.Error(
        code=CODES[kind],
        reason=error.reason[:_MAX_REASON],
        message=short(error.message or error.reason, limit_bytes // 2),
        retryable=error.retryable,
    )
    room = limit_bytes - message.ByteSize() - 2 * _TAIL_BYTES
    for place, (key, value) in enumerate(error.metadata.items()):
        kept = short(value, _MAX_VALUE_BYTES)
        room -= len(key.encode()) + len(kept.encode()) + 8
        if room < 0:
            message.metadata[OMITTED] = str(len(error.metadata) - place)
            break
        message.metadata[key] = kept
    for place, (field, description) in enumerate(error.violations):
        violation = errors_pb2.FieldViolation(
            field=short(field, _MAX_VALUE_BYTES), description=short(description, _MAX_VALUE_BYTES)
        )
        room -= violation.ByteSize() + 4
        if room < 0:
            message.violations.add(description=f"and {len(error.violations) - place} more")
            break
        message.violations.append(violation)
    return message


def from_message(message: errors_pb2.Error) -> errors.PolytokError:
    """Return the error of a message."""
    return class_of(message.code)(
        message.message,
        reason=message.reason or None,
        metadata=message.metadata,
        violations=[errors.FieldViolation(each.field, each.description) for each in message.violations],
        retryable=message.retryable,
    )


def from_record(reason: str, message: str, stored: errors_pb2.Error) -> errors.PolytokError:
    """Return the error of a record, with another message.

    The error of a record from an older service has no class and becomes FailedPrecondition.
    """
    if not stored.code:
        return errors.FailedPrecondition(message, reason=reason or None)
    found = from_message(stored)
    return type(found)(
        message, reason=reason, metadata=found.metadata, violations=found.violations, retryable=found.retryable
    )


def to_json(error: errors.PolytokError) -> dict[str, Any]:
    """Return the message of an error as JSON."""
    document: dict[str, Any] = json_format.MessageToDict(to_message(error), preserving_proto_field_name=True)
    return document


def from_json(document: Mapping[str, Any]) -> errors_pb2.Error:
    """Return the message of a JSON document."""
    return json_format.ParseDict(dict(document), errors_pb2.Error(), ignore_unknown_fields=True)


def to_status(error: errors.PolytokError) -> status_pb2.Status:
    """Return the status of an error, with google.rpc.ErrorInfo and BadRequest (AIP-193)."""
    message = to_message(error, MAX_STATUS_BYTES)
    info = error_details_pb2.ErrorInfo(reason=message.reason, domain=errors.DOMAIN, metadata=message.metadata)
    if message.retryable != class_of(message.code).default_retryable:
        info.metadata[_RETRYABLE] = "true" if message.retryable else "false"
    details: list[Message] = [info]
    if message.violations:
        request = error_details_pb2.BadRequest()
        for violation in message.violations:
            request.field_violations.add(field=violation.field, description=violation.description)
        details.append(request)
    status = status_pb2.Status(code=message.code, message=message.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def from_status(status: status_pb2.Status) -> errors.PolytokError | None:
    """Return the error of a status, or None if no Polytok service raised it."""
    info = _detail(status, error_details_pb2.ErrorInfo())
    if info is None:
        return None
    metadata = dict(info.metadata)
    kind = class_of(status.code)
    retryable = metadata.pop(_RETRYABLE, None)
    request = _detail(status, error_details_pb2.BadRequest()) or error_details_pb2.BadRequest()
    return from_message(
        errors_pb2.Error(
            code=status.code,
            reason=info.reason,
            message=status.message,
            retryable=kind.default_retryable if retryable is None else retryable == "true",
            metadata=metadata,
            violations=[
                errors_pb2.FieldViolation(field=each.field, description=each.description)
                for each in request.field_violations
            ],
        )
    )


def short(text: str, limit_bytes: int) -> str:
    """Return a text, truncated to `limit_bytes` in UTF-8."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode()
    return f"{encoded[: limit_bytes - 3].decode(errors='ignore')}…"


def _detail(status: status_pb2.Status, detail: _Detail) -> _Detail | None:
    for each in status.details:
        if each.Unpack(detail):
            return detail
    return None
