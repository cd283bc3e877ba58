"""How padding is completed and checked."""

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.catalog.server.domain import records

_Parameters = tokenizations_pb2.TokenizationParameters
_Padding = tokenizations_pb2.Padding


def apply_defaults(parameters: tokenizations_pb2.TokenizationParameters, model: records.Model) -> None:
    """Fill in the defaults of the padding, if there is any, and refuse what cannot work."""
    if not parameters.HasField("padding"):
        return
    padding = parameters.padding
    padding.to = padding.to or _Padding.TO_MAX_LENGTH
    padding.side = padding.side or _Padding.SIDE_RIGHT
    padding.token = padding.token or _token(model)
    if parameters.HasField("packing"):
        raise _invalid("padding", "does not go with packing, whose sequences are all of max_length tokens.")
    if padding.to == _Padding.TO_LONGEST and parameters.truncation == _Parameters.TRUNCATION_NONE:
        raise _invalid(
            "padding.to",
            "LONGEST does not go with truncation NONE: one long document would make every sequence as long as itself; "
            "truncate, or set to to TO_MAX_LENGTH.",
        )
    role = "eos_token" if padding.token == _Padding.TOKEN_EOS else "pad_token"
    if role not in model.special_roles:
        other = "TOKEN_PAD" if role == "eos_token" else "TOKEN_EOS"
        raise _invalid("padding.token", f"the tokenizer of {model.resource} has no {role}; set token to {other}.")


def _token(model: records.Model) -> tokenizations_pb2.Padding.Token.ValueType:
    if "pad_token" in model.special_roles:
        return _Padding.TOKEN_PAD
    if "eos_token" in model.special_roles:
        return _Padding.TOKEN_EOS
    raise _invalid(
        "padding", f"the tokenizer of {model.resource} has no pad_token and no eos_token to pad with; do not pad."
    )


def as_fields(parameters: tokenizations_pb2.TokenizationParameters) -> dict[str, object]:
    """Return the padding as a flat dict, for comparison."""
    if not parameters.HasField("padding"):
        return {"padding": "NONE"}
    padding = parameters.padding
    return {
        "padding": _Padding.To.Name(padding.to).removeprefix("TO_"),
        "padding.side": _Padding.Side.Name(padding.side).removeprefix("SIDE_"),
        "padding.token": _Padding.Token.Name(padding.token).removeprefix("TOKEN_"),
    }


def _invalid(field: str, description: str) -> errors.InvalidArgument:
    field = f"parameters.{field}"
    return errors.InvalidArgument(f"{field}: {description}", violations=[errors.FieldViolation(field, description)])
