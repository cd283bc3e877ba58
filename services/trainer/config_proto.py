"""Between the messages of `polytok.trainer.v1` and the plan of a training. Imports no torch."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from polytok import errors
from polytok.trainer.v1 import saes_pb2, trainings_pb2
from services.trainer.sae import configs

UNKNOWN_WIDTH = 2**31 - 1
"""Stands for the width of a hook that is known only by running the model; no plan refuses it."""

_LONGEST_NAME = 63
_MOST_ROWS = 50
_ROWS = 100
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(configs.TrainingPlan)}


def saes_from_messages(asked: Sequence[saes_pb2.Sae], widths: Mapping[str, int]) -> tuple[configs.PlannedSae, ...]:
    """Return the autoencoders, every default filled in, with names of their own.

    `widths` has the width of each hook that is known. Raises `errors.InvalidArgument` that names the autoencoder.
    """
    found: list[configs.PlannedSae] = []
    for place, sae in enumerate(asked):
        name = sae.name or _default_name(sae, {each.name for each in found} | {other.name for other in asked})
        try:
            found.append(_planned(sae, name, widths.get(sae.hook, 0)))
        except errors.InvalidArgument as error:
            raise _of(place, sae, error) from None
    return tuple(found)


def _planned(sae: saes_pb2.Sae, name: str, width: int) -> configs.PlannedSae:
    if width and sae.HasField("d_in") and sae.d_in != width:
        message = f"sae.d_in is {sae.d_in}; {sae.hook} has a width of {width}. Leave it out."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("sae.d_in", message)])
    architecture = sae.WhichOneof("architecture")
    if architecture is None:
        message = f"sae.architecture is missing; it must be one of {', '.join(configs.ARCHITECTURES)}."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("sae.architecture", message)])
    fields = _given(getattr(sae, architecture)) | _given(
        sae, "normalize_activations", "decoder_init_norm", "apply_b_dec_to_input", "dtype", "seed"
    )
    fields |= {"architecture": architecture, "d_sae": sae.d_sae}
    fields["d_in"] = width or (sae.d_in if sae.HasField("d_in") else UNKNOWN_WIDTH)
    return configs.PlannedSae(
        name=name,
        hook=sae.hook,
        sae=configs.SaeConfig.from_dict(fields),
        optimizer=configs.OptimizerConfig.from_dict(_given(sae.optimizer)),
    )


def plan_from_messages(
    saes: Sequence[configs.PlannedSae], asked: trainings_pb2.TrainingParameters, available: int
) -> configs.TrainingPlan:
    """Return the whole plan, every default filled in; `available`: samples that the source gives once."""
    given = _given(asked)
    total = given.setdefault("total_samples", available)
    batch = given.get("batch_size", _DEFAULTS["batch_size"])
    if total < batch:
        where = "parameters.total_samples" if asked.HasField("total_samples") else "parameters.batch_size"
        what = (
            f"is {total:,}" if asked.HasField("total_samples") else f"is {batch:,}, and the source has {total:,} tokens"
        )
        message = f"{where} {what}; a training needs at least one batch of {batch:,}."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation(where, message)])
    given.setdefault("buffer_samples", _buffer(batch, total, given))
    given.setdefault("log_every", max(1, min(_MOST_ROWS, total // batch // _ROWS)))
    return configs.TrainingPlan.from_dict({"saes": [each.to_dict() for each in saes]} | given)


def _buffer(batch: int, total: int, given: Mapping[str, Any]) -> int:
    """Return the buffer of a plan that names none: as large as others, and what its processes can share."""
    wanted: int = max(batch, min(_DEFAULTS["buffer_samples"], total))
    # Not below a batch: where processes share batches, a batch is a multiple too.
    processes: int = given.get("processes", _DEFAULTS["processes"])
    return max(batch, wanted - wanted % processes)


def plan_to_message(complete: configs.TrainingPlan) -> trainings_pb2.TrainingParameters:
    """Return the parameters of a plan as a message."""
    message = trainings_pb2.TrainingParameters()
    _fill(message, complete)
    return message


def sae_to_message(complete: configs.PlannedSae) -> saes_pb2.Sae:
    """Return an autoencoder of a plan as a message."""
    message = saes_pb2.Sae(name=complete.name, hook=complete.hook)
    _fill(message, complete.sae)
    if message.d_in == UNKNOWN_WIDTH:
        message.ClearField("d_in")
    getattr(message, complete.sae.architecture).SetInParent()
    _fill(getattr(message, complete.sae.architecture), complete.sae)
    _fill(message.optimizer, complete.optimizer)
    return message


def _given(message: Message, *names: str) -> dict[str, Any]:
    """Return the fields that are set, as the plan calls their values."""
    found = {}
    for field in message.DESCRIPTOR.fields:
        if (names and field.name not in names) or not _is_set(message, field):
            continue
        value = getattr(message, field.name)
        if field.enum_type is not None:
            value = _word(field.enum_type, value)
        found[field.name] = tuple(value) if field.is_repeated else value
    return found


def _is_set(message: Message, field: Any) -> bool:
    return message.HasField(field.name) if field.has_presence else bool(getattr(message, field.name))


def _fill(message: Message, config: object) -> None:
    """Set the fields that a part of a plan has too."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(config, field.name, None)
        if value is None or field.message_type is not None:
            continue
        if field.is_repeated:
            getattr(message, field.name)[:] = value
        elif field.enum_type is not None:
            setattr(
                message, field.name, field.enum_type.values_by_name[_prefix(field.enum_type) + value.upper()].number
            )
        else:
            setattr(
                message, field.name, int(value) if field.name == "k" and message.DESCRIPTOR.name == "TopK" else value
            )


def _word(enum: Any, number: int) -> str:
    return str(enum.values_by_number[number].name.removeprefix(_prefix(enum)).lower())


def _prefix(enum: Any) -> str:
    return str(enum.values_by_number[0].name.removesuffix("UNSPECIFIED"))


def _default_name(sae: saes_pb2.Sae, taken: set[str]) -> str:
    """Return a name of hook and architecture."""
    architecture = str(sae.WhichOneof("architecture")).replace("_", "-")
    base = re.sub(r"[^a-z0-9._-]", "-", sae.hook.lower()).strip("-._") or "sae"
    base = f"{base[: _LONGEST_NAME - len(architecture) - 5]}-{architecture}"
    numbers = (f"{base}-{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (base, *numbers) if name not in taken)


def _of(place: int, sae: saes_pb2.Sae, error: errors.InvalidArgument) -> errors.InvalidArgument:
    """Return which of several autoencoders a message is about."""
    field = f"saes[{place}]"
    violations = [
        errors.FieldViolation(violation.field.replace("sae.", f"{field}.", 1), violation.description)
        for violation in error.violations
    ]
    message = f"{sae.name or sae.hook}: {error.message.removeprefix('sae.').removeprefix('optimizer.')}"
    return errors.InvalidArgument(message, reason=error.reason, violations=violations)
