"""Build protobuf messages from user input; errors name the field and the range that it accepts."""

import reprlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from polytok import errors

P = ParamSpec("P")
M = TypeVar("M", bound=Message)
Field: TypeAlias = Any
"""A FieldDescriptor of the pure-Python or the compiled protobuf."""

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_KINDS = {
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_STRING: "text that UTF-8 can encode",
}


def build(kind: Callable[P, M], *args: P.args, **fields: P.kwargs) -> M:
    """Return the message with these fields. Raises InvalidArgument for the first value that does not fit its field."""
    try:
        return kind(*args, **fields)
    except (TypeError, ValueError) as error:
        _check(kind, fields)
        raise errors.InvalidArgument(f"The arguments cannot be sent: {error}.") from None


def refusal(field: Field, value: object) -> errors.InvalidArgument:
    """Return the error of a value that does not fit a field."""
    described = f"it takes {_described(field)}"
    return errors.InvalidArgument(
        f"{field.name} cannot be {_shown(value)}: {described}.",
        violations=[errors.FieldViolation(field.name, f"{described}.")],
    )


def is_integer(field: Field) -> bool:
    """Return whether a field holds integers."""
    return field.cpp_type in _INTEGERS


def _check(kind: Any, fields: dict[str, Any]) -> None:
    """Raise for the first unknown field, or the first value that does not fit its field."""
    known = kind.DESCRIPTOR.fields_by_name
    for name, value in fields.items():
        if name not in known:
            raise errors.InvalidArgument(f"Unknown field {name!r}. Expected one of: {', '.join(known)}.")
        try:
            kind(**{name: value})
        except (TypeError, ValueError):
            raise refusal(known[name], value) from None


def _described(field: Field) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return "a mapping of text to text"
    one = _one(field)
    return f"a list whose items are each {one}" if field.is_repeated else one


def _one(field: Field) -> str:
    if is_integer(field):
        least, most = _INTEGERS[field.cpp_type]
        return f"an integer from {least} to {most}"
    if field.message_type is not None:
        return f"a {field.message_type.name}"
    return _KINDS.get(field.cpp_type, "another kind of value")


def _shown(value: object) -> str:
    return reprlib.repr(value)
