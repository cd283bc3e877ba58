"""Enforce the validation rules of the protos (protovalidate), with readable messages."""

import protovalidate
from google.protobuf.message import Message

from polytok import errors
from services.runtime.rpc import regex_descriptions

_validator = protovalidate.Validator()

_SHOWN_CHARACTERS = 60


def check(message: Message) -> None:
    """Raise InvalidArgument with a violation for each broken rule."""
    broken = _validator.collect_violations(message)
    if not broken:
        return
    violations = list(dict.fromkeys(_violation(each) for each in broken))
    raise errors.InvalidArgument(
        "; ".join(f"{each.field}: {each.description}" if each.field else each.description for each in violations) + ".",
        violations=violations,
    )


def _violation(broken: protovalidate.Violation) -> errors.FieldViolation:
    return errors.FieldViolation(_path(broken), _description(broken))


def _path(broken: protovalidate.Violation) -> str:
    field = broken.proto.field
    path = ""
    for element in field.elements if field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value!r}]"
    return path


def _description(broken: protovalidate.Violation) -> str:
    rule = broken.proto.rule_id or ""
    match rule:
        case "string.pattern":
            return f"must {regex_descriptions.describe(str(broken.rule_value))}{_given(broken.field_value)}"
        case "string.not_contains":
            return f"must not contain '{broken.rule_value}'"
        case "required":
            return "is required"
    return (broken.proto.message or rule) + _given(broken.field_value)


def _given(value: object) -> str:
    """Return the field's value, if it is short enough to help."""
    if isinstance(value, bool | bytes) or not isinstance(value, str | int | float):
        return ""
    if value == "":
        return ", not empty"
    shown = repr(value)
    return f", not {shown}" if len(shown) <= _SHOWN_CHARACTERS else f", not {shown[:_SHOWN_CHARACTERS]}…"
