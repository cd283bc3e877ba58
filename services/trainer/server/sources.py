"""Where a training's activations come from: found, checked against what is asked for, and held."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polytok import errors
from polytok.catalog.v1 import models_pb2, tokenizations_pb2
from polytok.trainer.v1 import saes_pb2, trainings_pb2
from services.activations import holding
from services.activations.holding import Hold

_IN_BLOCK = re.compile(r"blocks\.(\d{1,6})\.(\S+)")
_EMBEDDING = "hook_embed"
# As wide as the residual stream, whatever the model.
_RESIDUAL = frozenset(
    {
        "hook_resid_pre",
        "hook_resid_mid",
        "hook_resid_post",
        "hook_attn_out",
        "hook_mlp_out",
        "hook_normalized_resid_post",
    }
)


@dataclass(frozen=True)
class Found:
    """A source that is READY, and held."""

    hold: Hold
    lineage: trainings_pb2.TrainingLineage
    key: str
    """Storage key of the folder that is read."""
    samples: int
    """Activations of each hook that it gives once."""
    widths: Mapping[str, int]
    """Width of each hook that is known."""
    vocab_size: int
    tokenizer_fingerprint: str
    excluded_token_ids: Sequence[int]
    words: Sequence[str]
    """What a training of it may be called by."""


class Sources:
    """Finds and holds sources."""

    def __init__(self, catalog: holding.Catalog) -> None:
        self._catalog = catalog

    async def find(self, source: trainings_pb2.TrainingSource, hooks: Sequence[str], holder: str) -> Found:
        """Finds a source, refuses what it cannot give, and holds it.

        Raises NotFound, FailedPrecondition (NOT_READY) and InvalidArgument (HOOK_NOT_FOUND).
        """
        live = source.live
        model, tokenization = await asyncio.gather(
            self._catalog.model(live.model), self._catalog.resolve(live.dataset, live.model, live.variant)
        )
        _check_hooks(hooks, model)
        _check_digest(tokenization)
        hold = Hold(tokenization.name, holder, tokenization.manifest_digest)
        held = await self._catalog.hold(hold)
        return Found(
            hold=hold,
            lineage=trainings_pb2.TrainingLineage(
                tokenization=tokenization.name,
                tokenization_uid=tokenization.uid,
                tokenization_digest=tokenization.manifest_digest,
                model_repo_id=model.repo_id,
                model_revision=model.revision,
            ),
            key=held.storage_key,
            samples=tokenization.statistics.num_tokens,
            widths={hook: model.d_model for hook in hooks if model.d_model and _is_residual(hook)},
            vocab_size=tokenization.vocab_size,
            tokenizer_fingerprint=tokenization.tokenizer_fingerprint,
            excluded_token_ids=_special(model) if live.exclude_special_tokens else (),
            words=(live.dataset.removeprefix("datasets/"), live.model.removeprefix("models/"), live.variant),
        )

    async def hold_again(self, lineage: trainings_pb2.TrainingLineage, holder: str) -> None:
        """Holds what an earlier job of a training has read. Raises NotFound, FailedPrecondition (RESOURCE_CHANGED)."""
        await self._catalog.hold(hold_of(lineage, holder))

    async def release(self, hold: Hold) -> None:
        """Ends a hold."""
        await self._catalog.release(hold)


def hold_of(lineage: trainings_pb2.TrainingLineage, holder: str) -> Hold:
    """The hold of a training."""
    return Hold(lineage.tokenization, holder, lineage.tokenization_digest)


def _check_digest(tokenization: tokenizations_pb2.Tokenization) -> None:
    if not tokenization.manifest_digest:
        raise errors.FailedPrecondition(
            f"{tokenization.name} was taken over from an earlier version and has no checksums; delete it and make it "
            "again.",
            reason="NOT_READY",
            metadata={"resource": tokenization.name},
        )


def _special(model: models_pb2.Model) -> list[int]:
    return sorted({token.id for token in model.special_tokens})


def _is_residual(hook: str) -> bool:
    match = _IN_BLOCK.fullmatch(hook)
    return hook == _EMBEDDING or (match is not None and match[2] in _RESIDUAL)


def _check_hooks(hooks: Sequence[str], model: models_pb2.Model) -> None:
    """Refuses layers that the model does not have; names of modules are the worker's to look up."""
    for place, hook in enumerate(hooks):
        match = _IN_BLOCK.fullmatch(hook)
        if match is None or not model.n_layers or int(match[1]) < model.n_layers:
            continue
        message = f"{hook}: there is no layer {match[1]}; {model.name} has layers 0 to {model.n_layers - 1}."
        raise errors.InvalidArgument(
            message, reason="HOOK_NOT_FOUND", violations=[errors.FieldViolation(f"saes[{place}].hook", message)]
        )


def hooks(saes: Sequence[saes_pb2.Sae]) -> list[str]:
    """The hooks of autoencoders, in their order."""
    return [sae.hook for sae in saes]
