"""The task `extract.plan`: validate the order before anything is written, and split the rows into ranges."""

import shutil
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polytok import disk_space, errors
from polytok.extractor.v1 import tasks_pb2
from services.activations import memory, models, rows, tokenizations
from services.extractor.worker import arrow_columns, extraction, model_cache
from services.runtime.storage import Storage

_ROWS_AT_ONCE = 1 << 16


class ExtractionInput(NamedTuple):
    """The input of an extraction, checked to fit the model."""

    manifest: tokenizations.TokenizationManifest
    table: pa.Table
    """All rows of which some may be read."""
    lengths: NDArray[np.int64]
    """Tokens of each row that is read, without padding and without what exceeds the context."""
    widths: Mapping[str, int]
    """Numbers per activation of each hook; the model's width where only a forward pass would show it."""


def plan(
    task: tasks_pb2.PlanExtractionTask,
    storage: Storage,
    reader: tokenizations.TokenizationReader,
    loaded: model_cache.ModelCache,
) -> tasks_pb2.PlanExtractionResult:
    """Check that everything fits, load the model, and split the rows into ranges."""
    order = task.order
    description = models.describe(loaded.folder(order))
    found = read_input(order, description, storage, reader)
    each = bytes_per_token(order, found)
    size = int(found.lengths.sum()) * each
    check_room(order.name, size, storage)
    # Damaged or unsuitable weights are reported now, and the model is loaded for the ranges.
    loaded.get(order)
    return tasks_pb2.PlanExtractionResult(
        ranges=_cut(found.lengths, max(1, task.range_bytes // each)),
        size_bytes=size,
        weights_fingerprint=loaded.fingerprint,
    )


def read_input(
    order: tasks_pb2.ExtractionOrder,
    description: models.ModelDescription,
    storage: Storage,
    reader: tokenizations.TokenizationReader,
) -> ExtractionInput:
    """Open the tokenization; reject unknown hooks and out-of-range token ids or lengths."""
    settings = model_cache.range_settings(order)
    found = extraction.widths(settings, description)
    widths = {name: width or description.d_model for name, width in found.items()}
    _check_context(order, description)
    manifest = tokenizations.read_manifest(storage, order.tokenization, order.tokenization_key, order.manifest_digest)
    parameters = order.parameters
    count = manifest.num_rows
    if parameters.HasField("max_sequences"):
        count = min(count, parameters.max_sequences)
    table = reader.open(manifest, 0, count)
    _check_vocabulary(order, description, manifest, table.slice(0, count))
    lengths = _lengths(table, count, parameters.context_size)
    if parameters.HasField("max_tokens"):
        fitting = int(np.searchsorted(np.cumsum(lengths), parameters.max_tokens, side="right"))
        lengths = lengths[: max(1, fitting)]
    return ExtractionInput(manifest, table, lengths, widths)


def bytes_per_token(order: tasks_pb2.ExtractionOrder, found: ExtractionInput) -> int:
    """Return the bytes that a token takes on disk, all hooks together."""
    return arrow_columns.bytes_per_vector(found.widths, model_cache.number_format(order.parameters.storage_format))


def free_bytes(storage: Storage) -> int:
    """Return the free bytes where files are written; 0 if the storage does not report them."""
    root = storage.local_path("extractions")
    return shutil.disk_usage(root.parent).free if root is not None else 0


def check_room(name: str, size: int, storage: Storage) -> None:
    """Raise if the disk has no room for the extraction."""
    root = storage.local_path("extractions")
    if root is None:
        return
    free = shutil.disk_usage(root.parent).free
    if size > free:
        raise errors.ResourceExhausted(
            f"{name} takes {memory.format_bytes(size)} on disk, and {root.parent} has "
            f"{memory.format_bytes(free)} free. Free some space, or choose fewer hooks, fewer tokens "
            "(max_tokens), or bfloat16 as storage dtype; then retry.",
            reason=disk_space.REASON,
            metadata={"needed_bytes": str(size), "free_bytes": str(free)},
        )


def _check_context(order: tasks_pb2.ExtractionOrder, description: models.ModelDescription) -> None:
    limit, asked = description.context_length, order.parameters.context_size
    if limit and asked > limit:
        raise errors.InvalidArgument(
            f"{order.model} takes at most {limit} tokens, but {asked} were requested. Create the extraction "
            f"again with a context size of at most {limit}; the tokens beyond it are left out.",
            reason="MODEL_MISFIT",
        )


def _check_vocabulary(
    order: tasks_pb2.ExtractionOrder,
    description: models.ModelDescription,
    manifest: tokenizations.TokenizationManifest,
    table: pa.Table,
) -> None:
    # A tokenizer with no more ids than the model has rows cannot return an id out of range: nothing need be read.
    if manifest.tokenizer["vocab_size"] <= description.embedding_rows:
        return
    largest = max((pc.max(chunk.flatten()).as_py() or 0 for chunk in table[rows.IDS].chunks), default=0)
    if largest >= description.embedding_rows:
        raise errors.FailedPrecondition(
            f"{order.tokenization} contains the token id {largest}, but {order.model} has "
            f"{description.embedding_rows} embedding rows (ids 0 to {description.embedding_rows - 1}): the "
            "tokenizer and the weights do not match. Register the model with the weights of its tokenizer "
            "(`polytok model add`), and tokenize for it.",
            reason="MODEL_MISFIT",
            metadata={"largest_id": str(largest), "embedding_rows": str(description.embedding_rows)},
        )


def _lengths(table: pa.Table, count: int, context_size: int) -> NDArray[np.int64]:
    if rows.MASK not in table.column_names:
        lengths: NDArray[np.int64] = pc.list_value_length(table[rows.IDS].slice(0, count)).to_numpy()
        return np.minimum(lengths.astype(np.int64), context_size)
    source = rows.TokenRows(table, context_size)
    starts = range(0, count, _ROWS_AT_ONCE)
    return np.concatenate([source.read(start, min(_ROWS_AT_ONCE, count - start)).lengths for start in starts])


def _cut(lengths: NDArray[np.int64], tokens: int) -> list[tasks_pb2.RowRange]:
    """Return ranges of about the given number of tokens, at least one row each."""
    ends = np.cumsum(lengths)
    total, first = int(ends[-1]) if len(ends) else 0, 0
    number = max(1, round(total / tokens))
    found = []
    for part in range(1, number + 1):
        end = len(lengths) if part == number else int(np.searchsorted(ends, total * part // number)) + 1
        if end > first:
            count = int(lengths[first:end].sum())
            found.append(tasks_pb2.RowRange(first_row=first, num_rows=end - first, num_tokens=count))
            first = end
    return found
