"""The provenance in the export of a training, taken from what was actually read."""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

from polytok.trainer.v1 import tasks_pb2
from services.activations import tokenizations
from services.activations.rows import TokenRows
from services.trainer.sae import configs, export
from services.trainer.worker.activation_sources import ActivationSource

_BOUNDARY = "BOUNDARY_"


def origins(
    task: tasks_pb2.RunTrainingTask, source: ActivationSource, complete: configs.TrainingPlan
) -> Callable[[configs.PlannedSae], export.Origin]:
    """Return the provenance of each autoencoder for its export; the rows are read once."""
    lineage, selection = task.lineage, source.selection
    tokens, manifest = source.tokens, source.manifest
    bos = lineage.bos_token_id if lineage.HasField("bos_token_id") else None
    prepend_bos = None if tokens is None else begins_with(tokens, bos)
    longest = int(manifest.statistics.get("max_seq_length", 0)) if manifest is not None else 0
    sizes = [size for size in (selection.context_size, longest) if size]
    further = {
        "training": task.training,
        "tokenization": lineage.tokenization,
        "tokenization_digest": lineage.tokenization_digest,
        "polytok_version": importlib.metadata.version("polytok"),
        "seed": complete.seed,
        "training_tokens": complete.total_steps * complete.batch_size,
    }
    if lineage.extraction:
        further |= {"extraction": lineage.extraction, "extraction_digest": lineage.extraction_digest}

    def origin(planned: configs.PlannedSae) -> export.Origin:
        return export.Origin(
            model_name=lineage.model_repo_id,
            model_revision=lineage.model_revision,
            model_dtype=source.dtype,
            hook_name=planned.hook,
            context_size=min(sizes, default=0),
            prepend_bos=prepend_bos,
            selection=selection,
            further=further | describe_packing(manifest),
        )

    return origin


def begins_with(tokens: Any, bos: int | None) -> bool:
    """Return whether every sequence of a tokenization begins with a token."""
    return bos is not None and all(bool((ids == bos).all()) for ids in TokenRows(tokens).first_ids())


def describe_packing(manifest: tokenizations.TokenizationManifest | None) -> dict[str, Any]:
    """Return how documents were packed into sequences, in SAELens's terms."""
    packed = manifest.parameters.get("packing") if manifest is not None else None
    if packed is None:
        return {}
    return {
        # SAELens's `ActivationsStore.from_sae` begins rows with BOS or with nothing, by `prepend_bos`. Rows that begin
        # otherwise come from its `PretokenizeRunner`, whose field names these are.
        "begin_batch_token": _token(packed, "begin_of_batch", "BOS"),
        "begin_sequence_token": _token(packed, "begin_of_sequence", "NONE"),
        "sequence_separator_token": _token(packed, "separator", "BOS"),
        "disable_concat_sequences": bool(packed.get("disable_concatenation", False)),
    }


def _token(packed: Mapping[str, Any], field: str, default: str) -> str | None:
    """Return a boundary as SAELens names it."""
    boundary = str(packed.get(field, f"{_BOUNDARY}{default}")).removeprefix(_BOUNDARY).lower()
    return None if boundary == "none" else boundary
