"""Convert records to plain data for `--json`: field names as in the contracts, states by name, integers as numbers.

JSON has neither NaN nor infinity: undefined numbers are null.
"""

import math
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from polytok import errors
from polytok.errors import codec

_TIMESTAMP = "google.protobuf.Timestamp"
_ERROR = "polytok.errors.v1.Error"


def record(message: Message) -> dict[str, Any]:
    """Return a record; unset fields are null."""
    return {
        field.name: _value(message, field) for field in message.DESCRIPTOR.fields if not _is_left_out(message, field)
    }


def error(failure: errors.PolytokError) -> dict[str, Any]:
    """Return an error."""
    return {
        "error": {
            "kind": type(failure).__name__,
            "reason": failure.reason,
            "message": failure.message,
            "metadata": failure.metadata,
            "violations": [violation._asdict() for violation in failure.violations],
            "retryable": failure.retryable,
        }
    }


def _is_left_out(message: Message, field: Any) -> bool:
    """Return whether a field is an unset member of a oneof."""
    oneof = field.containing_oneof
    is_synthetic = oneof is not None and len(oneof.fields) == 1
    return oneof is not None and not is_synthetic and not message.HasField(field.name)


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {key: _item(value[key]) for key in sorted(value)}
        return [_single(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single(value, field)


def _item(value: Any) -> Any:
    return record(value) if isinstance(value, Message) else _number(value)


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _single(value: Any, field: Any) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        # A newer server's value: only its number is known.
        return value if known is None else word(known.name, (each.name for each in field.enum_type.values))
    if field.message_type is not None:
        if field.message_type.full_name == _TIMESTAMP:
            return value.ToJsonString()
        if field.message_type.full_name == _ERROR:
            return error(codec.from_message(value))["error"]
        return record(value)
    return value.hex() if isinstance(value, bytes) else _number(value)


def word(name: str, siblings: Iterable[str]) -> str | None:
    """Return an enum value without the prefix that all values share; None for the unspecified one."""
    unspecified = next(each for each in siblings if each.endswith("_UNSPECIFIED"))
    return None if name == unspecified else name.removeprefix(unspecified.removesuffix("UNSPECIFIED"))
