"""How a tokenization's parameters are completed and checked against its dataset and model."""

from collections.abc import Sequence

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.catalog.server.domain import chat_templates, columns, filters, padding, records

DEFAULT_MAX_LENGTH = 1024
"""Where the model does not say how long a sequence it takes."""

_Parameters = tokenizations_pb2.TokenizationParameters
_Packing = tokenizations_pb2.Packing


def apply_defaults(
    asked: tokenizations_pb2.TokenizationParameters, dataset: records.Dataset, model: records.Model
) -> tokenizations_pb2.TokenizationParameters:
    """Fill in every default, and refuse what cannot work on this dataset with this model."""
    parameters = _Parameters()
    parameters.CopyFrom(asked)
    choice = columns.choose(
        asked.text_column,
        dataset,
        only_chats=asked.HasField("chat") and not asked.text_column,
        known_why=asked.column_choice,
    )
    parameters.text_column, parameters.column_choice = choice.column, choice.why
    parameters.max_length = _max_length(asked, model)
    packing = asked.HasField("packing")
    _check_overflow(parameters)
    if packing:
        _complete_packing(parameters, model)
    elif parameters.truncation == _Parameters.TRUNCATION_UNSPECIFIED:
        parameters.truncation = _Parameters.TRUNCATION_RIGHT
    padding.apply_defaults(parameters, model)
    filters.apply_defaults(parameters)
    if not asked.HasField("add_special_tokens"):
        parameters.add_special_tokens = not packing
    chat_templates.apply_defaults(parameters, asked, dataset, is_chat=choice.is_chat)
    return parameters


def _max_length(asked: tokenizations_pb2.TokenizationParameters, model: records.Model) -> int:
    if not asked.HasField("max_length"):
        return model.context_length or DEFAULT_MAX_LENGTH
    if model.context_length and asked.max_length > model.context_length:
        raise _invalid(
            "parameters.max_length",
            f"{asked.max_length} is more than the {model.context_length} tokens that {model.resource} takes; "
            f"ask for at most {model.context_length}.",
        )
    return asked.max_length


def _check_overflow(parameters: tokenizations_pb2.TokenizationParameters) -> None:
    if not parameters.overflow:
        if parameters.stride:
            raise _invalid("parameters.stride", "means nothing without overflow; set overflow too, or no stride.")
        return
    if parameters.HasField("packing"):
        raise _invalid("parameters.overflow", "does not go with packing, which keeps all of a document anyway.")
    if parameters.truncation == _Parameters.TRUNCATION_NONE:
        raise _invalid("parameters.overflow", "does not go with truncation NONE, which leaves nothing over.")
    if parameters.stride >= parameters.max_length:
        raise _invalid(
            "parameters.stride",
            f"{parameters.stride} is not less than max_length, {parameters.max_length}; windows would never advance.",
        )


def _complete_packing(parameters: tokenizations_pb2.TokenizationParameters, model: records.Model) -> None:
    # Documents stay whole until they are packed.
    parameters.truncation = _Parameters.TRUNCATION_NONE
    packing = parameters.packing
    # As SAELens does: a token that the tokenizer has not is none, and no other takes its place.
    beginning = _Packing.BOUNDARY_BOS if "bos_token" in model.special_roles else _Packing.BOUNDARY_NONE
    defaults = {
        "begin_of_batch": beginning,
        "begin_of_sequence": _Packing.BOUNDARY_NONE,
        "separator": beginning,
    }
    for field, default in defaults.items():
        if getattr(packing, field) == _Packing.BOUNDARY_UNSPECIFIED:
            setattr(packing, field, default)
        _check_boundary(field, getattr(packing, field), model)
    if packing.document_starts and packing.disable_concatenation:
        raise _invalid(
            "parameters.packing.document_starts",
            "does not go with disable_concatenation, where every sequence is of one document.",
        )
    if packing.begin_of_batch != _Packing.BOUNDARY_NONE and parameters.max_length < 2:
        raise _invalid(
            "parameters.max_length",
            "1 leaves no room for text after the token that begins every sequence; ask for 2 or more.",
        )


_ROLES = {_Packing.BOUNDARY_BOS: "bos_token", _Packing.BOUNDARY_EOS: "eos_token"}


def _check_boundary(field: str, boundary: tokenizations_pb2.Packing.Boundary.ValueType, model: records.Model) -> None:
    role = _ROLES.get(boundary)
    if role is None or role in model.special_roles:
        return
    others = [_Packing.Boundary.Name(each) for each, other in _ROLES.items() if other in model.special_roles]
    raise _invalid(
        f"parameters.packing.{field}",
        f"the tokenizer of {model.resource} has no {role}; set {field} to {' or '.join([*others, 'BOUNDARY_NONE'])}.",
    )


def _invalid(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"{field}: {description}", violations=[errors.FieldViolation(field, description)])


def as_fields(parameters: tokenizations_pb2.TokenizationParameters) -> dict[str, object]:
    """Return the parameters flat, under names that a user knows, to compare two of them field by field."""
    flat: dict[str, object] = {
        "text_column": parameters.text_column,
        "max_length": parameters.max_length,
        "add_special_tokens": parameters.add_special_tokens,
        "packing": parameters.HasField("packing"),
    }
    if parameters.HasField("packing"):
        packing = parameters.packing
        for field in ("begin_of_batch", "begin_of_sequence", "separator"):
            flat[f"packing.{field}"] = _short(_Packing.Boundary.Name(getattr(packing, field)))
        flat["packing.disable_concatenation"] = packing.disable_concatenation
        flat["packing.document_starts"] = packing.document_starts
    else:
        flat["truncation"] = _short(_Parameters.Truncation.Name(parameters.truncation))
        flat["overflow"] = parameters.overflow
        flat["stride"] = parameters.stride
        flat.update(padding.as_fields(parameters))
    return flat | chat_templates.as_fields(parameters) | filters.as_fields(parameters)


def _short(enum_name: str) -> str:
    return enum_name.split("_", 1)[1]


def require_shards(dataset: records.Dataset) -> None:
    """Refuse a dataset that a worker cannot read."""
    if dataset.num_samples == 0:
        raise errors.FailedPrecondition(
            f"{dataset.resource} has no rows, so there is nothing to tokenize; "
            "delete it and add it again from a source that has some.",
            reason="SOURCE_EMPTY",
            metadata={"resource": dataset.resource},
        )
    if dataset.num_shards == 0:
        raise errors.FailedPrecondition(
            f"{dataset.resource} was read in by an earlier version, which kept no list of its files; "
            "add its source again under another name to tokenize it.",
            reason="NOT_READY",
            metadata={"resource": dataset.resource},
        )


def exists(resource: str, differing: Sequence[str]) -> errors.AlreadyExists:
    """Tell that a tokenization exists and was made in another way."""
    what = "; ".join(differing)
    return errors.AlreadyExists(
        f"{resource} exists with {what}. Give this one a variant of its own (`--variant NAME`), "
        "or delete the other first.",
        metadata={"resource": resource, "differs": what[:1000]},
    )
