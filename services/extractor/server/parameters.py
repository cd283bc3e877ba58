"""What may be asked for, the defaults filled in, and what does not fit."""

import re
from collections.abc import Sequence
from typing import Any

from polytok import errors
from polytok.catalog.v1 import models_pb2, tokenizations_pb2
from polytok.extractor.v1 import extractions_pb2
from polytok.extractor.v1.extractions_pb2 import ExtractionParameters as Parameters
from services.activations import hook_names

_LAYER = re.compile(r"blocks\.(\d{1,6})\.\S+")
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_*-]+)*")
_MOST_HOOKS = 512


def apply_defaults(
    asked: Parameters,
    model: models_pb2.Model,
    tokenization: tokenizations_pb2.Tokenization,
    structure: hook_names.ModelStructure | None,
) -> extractions_pb2.ExtractionParameters:
    """Fill every default in; raises InvalidArgument and FailedPrecondition for what does not fit.

    Hooks are checked by what the model is made of as far as that is known; the first task of an extraction checks all.
    """
    _check_fits(model, tokenization)
    made = Parameters()
    made.CopyFrom(asked)
    del made.hooks[:]
    made.hooks.extend(_hooks(asked.hooks, model, structure))
    made.context_size = _context(asked, model, tokenization)
    made.compute_format = asked.compute_format or extractions_pb2.NUMBER_FORMAT_FLOAT32
    made.storage_format = asked.storage_format or made.compute_format
    made.nonfinite = asked.nonfinite or Parameters.NONFINITE_FAIL
    made.excluded_token_ids[:] = sorted(asked.excluded_token_ids)
    made.excluded_positions[:] = sorted(asked.excluded_positions)
    return made


def find_excluded_token_ids(complete: Parameters, model: models_pb2.Model) -> Sequence[int]:
    """Return the ids of all tokens whose activations are left out."""
    special = [token.id for token in model.special_tokens] if complete.exclude_special_tokens else []
    return sorted({*special, *complete.excluded_token_ids})


def describe_differences(existing: Parameters, asked: Parameters) -> Sequence[str]:
    """Return what differs, a phrase a field."""
    before, now = _shown(existing), _shown(asked)
    return [
        f"{name} {before.get(name, 'unset')}, not {now.get(name, 'unset')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _shown(parameters: Parameters) -> dict[str, str]:
    """Return what is set, as users write it."""
    return {field.name: _words(field, value) for field, value in parameters.ListFields()}


def _words(field: Any, value: Any) -> str:
    if field.enum_type is not None:
        prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
        return str(field.enum_type.values_by_number[value].name.removeprefix(prefix).lower())
    return ", ".join(map(str, value)) if field.is_repeated else str(value)


def _check_fits(model: models_pb2.Model, tokenization: tokenizations_pb2.Tokenization) -> None:
    if tokenization.tokenizer_fingerprint != model.tokenizer_fingerprint:
        dataset, name = tokenization.dataset.partition("/")[2], model.name.partition("/")[2]
        raise errors.FailedPrecondition(
            f"{tokenization.name} was made with another tokenizer (fingerprint "
            f"{tokenization.tokenizer_fingerprint[:12]}…) than {model.name} has now "
            f"({model.tokenizer_fingerprint[:12]}…): its ids would mean other tokens. "
            f"Delete it and make it again with `polytok tokenize {dataset} --model {name}`.",
            reason="MODEL_MISFIT",
            metadata={"tokenization": tokenization.name, "model": model.name},
        )


def _hooks(asked: Sequence[str], model: models_pb2.Model, structure: hook_names.ModelStructure | None) -> Sequence[str]:
    layers = model.n_layers or (structure.n_layers if structure else 0)
    found: list[str] = []
    wrong: dict[int, str] = {}
    for place, name in enumerate(asked):
        layer = _LAYER.fullmatch(name)
        if name.startswith(hook_names.EVERY_LAYER) and layers:
            rest = name.removeprefix(hook_names.EVERY_LAYER)
            found += [f"blocks.{number}.{rest}" for number in range(layers)]
        elif not _NAME.fullmatch(name):
            wrong[place] = f"{name!r} is no hook: name one as blocks.0.hook_resid_post, or a module by its path."
        elif layer and model.n_layers and int(layer[1]) >= model.n_layers:
            wrong[place] = f"{name}: there is no layer {layer[1]}; {model.name} has layers 0 to {model.n_layers - 1}."
        else:
            found.append(name)
    if structure is not None:
        wrong = dict(hook_names.find_problems(asked, structure)) | wrong
    unique = list(dict.fromkeys(found))
    if len(unique) > _MOST_HOOKS:
        wrong[len(asked) - 1] = f"{len(unique)} hooks are more than the {_MOST_HOOKS} of one extraction; make several."
    if wrong:
        raise errors.InvalidArgument(
            " ".join(message for _, message in sorted(wrong.items())),
            reason="HOOK_NOT_FOUND",
            violations=[
                errors.FieldViolation(f"parameters.hooks[{place}]", message) for place, message in sorted(wrong.items())
            ],
        )
    return unique


def _context(asked: Parameters, model: models_pb2.Model, tokenization: tokenizations_pb2.Tokenization) -> int:
    limit = model.context_length
    if asked.HasField("context_size"):
        if limit and asked.context_size > limit:
            raise _too_long(
                f"context_size {asked.context_size} is more than the {limit} tokens that {model.name} looks at", limit
            )
        return asked.context_size
    # A record that was taken over from an earlier version has no longest sequence.
    longest = tokenization.statistics.max_seq_length or tokenization.parameters.max_length or limit
    if not longest:
        message = f"{tokenization.name} does not tell how long its sequences are; set a context size."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("parameters.context_size", message)])
    if limit and longest > limit:
        raise _too_long(
            f"{tokenization.name} has sequences of up to {longest} tokens, and {model.name} looks at {limit}", limit
        )
    return int(longest)


def _too_long(what: str, limit: int) -> errors.InvalidArgument:
    message = f"{what}. Set a context size of {limit} or less: the tokens behind it are left out."
    return errors.InvalidArgument(
        message, reason="MODEL_MISFIT", violations=[errors.FieldViolation("parameters.context_size", message)]
    )
