"""Where a training's activations come from: found, checked against what is asked for, and held."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polytok import errors
from polytok.catalog.v1 import models_pb2, tokenizations_pb2
from polytok.extractor.v1 import extractions_pb2
from polytok.trainer.v1 import saes_pb2, trainings_pb2
from services.activations import hook_names
from services.activations.structure_cache import ModelStructureCache
from services.records import hold_client
from services.records.hold_client import Hold
from services.runtime.storage import Storage
from services.trainer.server import messages
from services.trainer.server.extractor_client import ExtractorClient
from services.trainer.server.models import Training

_EXTRACTIONS_KEY = "extractions"
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
class ResolvedInput:
    """A source that is READY."""

    lineage: trainings_pb2.TrainingLineage
    key: str
    """Storage key of the folder that is read; empty until a tokenization is held."""
    samples: int
    """Activations of each hook that it gives once, as far as it is known which are left out."""
    sequences: int
    """Sequences that they are of, or rows of an extraction."""
    widths: Mapping[str, int]
    """Width of each hook that is known."""
    vocab_size: int
    tokenizer_fingerprint: str
    words: Sequence[str]
    """What a training of it may be called by."""


class InputResolver:
    """Finds and holds sources."""

    def __init__(
        self,
        catalog: hold_client.CatalogClient,
        extractions: ExtractorClient,
        structures: ModelStructureCache,
        storage: Storage,
    ) -> None:
        self._catalog = catalog
        self._extractions = extractions
        self._structures = structures
        self._storage = storage

    async def find(self, source: trainings_pb2.TrainingSource, hooks: Sequence[str]) -> ResolvedInput:
        """Find a source, and refuse what it cannot give.

        Raises NotFound, FailedPrecondition (NOT_READY) and InvalidArgument (HOOK_NOT_FOUND).
        """
        if source.WhichOneof("source") == "extraction":
            extraction = await self._extractions.ready(source.extraction)
            found = self._extracted(extraction, hooks)
            _set_bos(found.lineage, await self._model_of(extraction))
            return found
        live = source.live
        model = await self._catalog.model(live.model)
        tokenization = await self._catalog.resolve(live.dataset, live.model, live.variant)
        _check_hooks(hooks, model, await self._structures.of(model, hooks))
        _check_digest(tokenization)
        lineage = trainings_pb2.TrainingLineage(
            tokenization=tokenization.name,
            tokenization_uid=tokenization.uid,
            tokenization_digest=tokenization.manifest_digest,
            model_repo_id=model.repo_id,
            model_revision=model.commit or model.revision,
            selection=extractions_pb2.TokenSelection(
                context_size=live.context_size,
                excluded_token_ids=_special(model) if live.exclude_special_tokens else (),
            ),
        )
        _set_bos(lineage, model)
        return ResolvedInput(
            lineage=lineage,
            key="",
            samples=_within(tokenization.statistics, live.context_size),
            sequences=tokenization.statistics.num_sequences,
            widths={hook: model.d_model for hook in hooks if model.d_model and _is_residual(hook)},
            vocab_size=tokenization.vocab_size,
            tokenizer_fingerprint=tokenization.tokenizer_fingerprint,
            words=(live.dataset.removeprefix("datasets/"), live.model.removeprefix("models/"), live.variant),
        )

    async def _model_of(self, extraction: extractions_pb2.Extraction) -> models_pb2.Model | None:
        """Return the model of an extraction, if it is still there with the tokenizer that the extraction is of."""
        try:
            model = await self._catalog.model(extraction.model)
        except (errors.NotFound, errors.FailedPrecondition):
            return None
        return model if model.tokenizer_fingerprint == extraction.tokenizer_fingerprint else None

    def _extracted(self, extraction: extractions_pb2.Extraction, hooks: Sequence[str]) -> ResolvedInput:
        statistics = {each.hook: each for each in extraction.statistics.hooks}
        wrong = {
            place: f"{hook} is not in {extraction.name}; it has {', '.join(statistics)}."
            f"{hook_names.suggest(hook, statistics)}"
            for place, hook in enumerate(hooks)
            if hook not in statistics
        }
        if wrong:
            raise _wrong_hooks(wrong)
        key = f"{_EXTRACTIONS_KEY}/{extraction.uid}"
        if self._storage.uri(key) != extraction.path:
            raise errors.FailedPrecondition(
                f"{extraction.name} lies in {extraction.path}, which is not in this trainer's storage. Give extractor "
                "and trainer the same POLYTOK_STORAGE_ROOT."
            )
        return ResolvedInput(
            lineage=trainings_pb2.TrainingLineage(
                tokenization=extraction.tokenization,
                tokenization_uid=extraction.tokenization_uid,
                tokenization_digest=extraction.tokenization_manifest_digest,
                model_repo_id=extraction.model_repo_id,
                model_revision=extraction.model_revision,
                weights_fingerprint=extraction.weights_fingerprint,
                extraction=extraction.name,
                extraction_digest=extraction.manifest_digest,
                selection=extraction.selection,
            ),
            key=key,
            samples=extraction.statistics.num_rows * extraction.parameters.context_size,
            sequences=extraction.statistics.num_rows,
            widths={hook: statistics[hook].width for hook in hooks},
            vocab_size=0,
            tokenizer_fingerprint="",
            words=(extraction.name.removeprefix("extractions/"),),
        )

    async def hold(self, lineage: trainings_pb2.TrainingLineage, holder: str) -> str:
        """Hold what a training reads; return the tokenization's storage key, empty where an extraction outlives it.

        Raises NotFound, FailedPrecondition (NOT_READY, RESOURCE_CHANGED).
        """
        tokenization, *extraction = create_holds(lineage, holder)
        for each in extraction:
            await self._extractions.hold(each)
        try:
            return (await self._catalog.hold(tokenization)).storage_key
        except (errors.NotFound, errors.FailedPrecondition):
            # An extraction has all that is needed to train; the model is not evaluated then.
            if not lineage.extraction:
                raise
        return ""

    async def release(self, lineage: trainings_pb2.TrainingLineage, holder: str) -> None:
        """End a training's holds; a hold that cannot be released now expires by itself."""
        tokenization, *extraction = create_holds(lineage, holder)
        calls = [self._catalog.release(tokenization), *(self._extractions.release(each) for each in extraction)]
        # One service that is away must not keep the other's.
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if outcome is not None:
                raise outcome


def create_holds(lineage: trainings_pb2.TrainingLineage, holder: str) -> Sequence[Hold]:
    """Return the holds of a training: on its tokenization, and on the extraction if it reads one."""
    held = [Hold(lineage.tokenization, holder, lineage.tokenization_digest)]
    if lineage.extraction:
        held.append(Hold(lineage.extraction, holder, lineage.extraction_digest))
    return held


def list_holds(record: Training) -> Sequence[Hold]:
    """Return what a training holds."""
    return create_holds(messages.lineage(record), record.resource)


def list_live_holds(record: Training) -> Sequence[Hold]:
    """Return the holds of a training that are to be renewed.

    One that reads an extraction may have begun when its tokenization was deleted: there is nothing to renew.
    """
    held = list_holds(record)
    return held if record.tokenization_key else [hold for hold in held if hold.resource.startswith("extractions/")]


def _check_digest(tokenization: tokenizations_pb2.Tokenization) -> None:
    if not tokenization.manifest_digest:
        raise errors.FailedPrecondition(
            f"{tokenization.name} was taken over from an earlier version and has no checksums; delete it and make it "
            "again.",
            reason="NOT_READY",
            metadata={"resource": tokenization.name},
        )


def _within(statistics: tokenizations_pb2.TokenizationStatistics, context_size: int) -> int:
    """Return how many tokens there are at most, once sequences are cut."""
    if not context_size:
        return statistics.num_tokens
    return min(statistics.num_tokens, statistics.num_sequences * context_size)


def _special(model: models_pb2.Model) -> list[int]:
    return sorted({token.id for token in model.special_tokens})


def _set_bos(lineage: trainings_pb2.TrainingLineage, model: models_pb2.Model | None) -> None:
    for token in model.special_tokens if model is not None else ():
        if token.role == "bos_token":
            lineage.bos_token_id = token.id


def _is_residual(hook: str) -> bool:
    match = hook_names.IN_BLOCK.fullmatch(hook)
    return hook == hook_names.EMBEDDING or (match is not None and match[2] in _RESIDUAL)


def _check_hooks(hooks: Sequence[str], model: models_pb2.Model, structure: hook_names.ModelStructure | None) -> None:
    """Refuse what the model does not have, as far as it is known what it is made of; the worker checks all."""
    wrong: dict[int, str] = {}
    for place, hook in enumerate(hooks):
        match = hook_names.IN_BLOCK.fullmatch(hook)
        if match is not None and model.n_layers and int(match[1]) >= model.n_layers:
            last = model.n_layers - 1
            wrong[place] = f"{hook}: there is no layer {match[1]}; {model.name} has layers 0 to {last}."
        elif structure is not None and (message := hook_names.find_problem(hook, structure, patterns=False)):
            wrong[place] = message
    if wrong:
        raise _wrong_hooks(wrong)


def _wrong_hooks(wrong: Mapping[int, str]) -> errors.InvalidArgument:
    """`wrong` has what is wrong with each of the hooks that are."""
    return errors.InvalidArgument(
        " ".join(dict.fromkeys(wrong.values())),
        reason="HOOK_NOT_FOUND",
        violations=[errors.FieldViolation(f"saes[{place}].hook", message) for place, message in wrong.items()],
    )


def list_hooks(saes: Sequence[saes_pb2.Sae]) -> list[str]:
    """Return the hooks of autoencoders, in their order."""
    return [sae.hook for sae in saes]
