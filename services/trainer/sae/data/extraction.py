"""Activations of a finished extraction, memory-mapped: blocks of neighbouring rows in a random order each epoch.

The files are those of `services.extractor` (and SAELens's cached activations): one column per hook, named after it, of
[context_size, width] numbers per row; bfloat16 as uint16 in a column with the suffix `.bfloat16`; `row_index` maps
each vector to its row of the tokenization. Reading whole blocks keeps disk reads sequential. The order of blocks is
drawn from (seed, epoch), and the last blocks of an order drawn from the seed alone are held out.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from polytok import errors, manifests
from services.activations import finiteness, hooks
from services.activations.models import LoadedModel
from services.activations.token_selection import EVERY_TOKEN, TokenSelection
from services.trainer.sae.data import live
from services.trainer.sae.data.dataset import Block, Position, SpliceTarget, TokenSequences
from services.trainer.sae.data.extraction_files import ExtractionFiles, check_whole

_BLOCK_BYTES = 4 << 20
_SMALLEST_NUMBER = 20
"""Blocks are smaller if there would be fewer of them than this."""
_BFLOAT16 = ".bfloat16"
_ROW_INDEX = "row_index"
_POSITION = "position"
_ADVICE = (
    "The extraction stores such numbers (policy keep), which cannot be trained on. Extract again: run the "
    "model as float32 or bfloat16 if it ran as float16, or exclude the tokens where it happens."
)
_EPOCHS = 1


@dataclass(frozen=True)
class _Column:
    """The column of a hook's vectors."""

    name: str
    shape: tuple[int, int]
    """Vectors per row, numbers per vector."""
    item_bytes: int


class ExtractionTable:
    """The rows of an extraction, by hook."""

    def __init__(self, rows: Any, wanted: tuple[str, ...], name: str = "") -> None:
        """`rows` is the result of `open_extraction`. Raises `errors.InvalidArgument` for a hook that is not in it."""
        self._columns = {hook: _column(name, rows.features, hook) for hook in wanted}
        self._table: pa.Table = rows.table if isinstance(rows, ExtractionFiles) else rows.data.table
        self._check = rows.check if isinstance(rows, ExtractionFiles) else _trust
        self.widths = {hook: column.shape[1] for hook, column in self._columns.items()}
        self.context_size = next(iter(self._columns.values())).shape[0]

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def row_bytes(self) -> int:
        """Bytes per row of all requested hooks."""
        return sum(each.shape[0] * each.shape[1] * each.item_bytes for each in self._columns.values())

    def read(self, first: int, count: int) -> Block:
        """Return the vectors of some rows, concatenated and copied out of the mapped files.

        Raises `errors.FailedPrecondition` for NaN or infinity, which an extraction may store.
        """
        part = self._table.slice(first, count)
        block = {
            hook: _vectors(_flat(part[column.name], 2, self._check), column) for hook, column in self._columns.items()
        }
        for hook, values in block.items():
            if found := finiteness.find_not_finite(values):
                raise self._not_finite(hook, found, first)
        return block

    def _not_finite(self, hook: str, found: finiteness.NotFinite, first: int) -> errors.FailedPrecondition:
        row, vector = divmod(found.first, self.context_size)
        places = {"row": _ROW_INDEX, "position": _POSITION}
        # Activations cached by SAELens do not record their position in the text.
        if not set(places.values()) <= set(self._table.column_names):
            place = f"vector {vector} of row {first + row} of the extraction"
            return finiteness.not_finite_error(hook, found, place, _ADVICE, {})
        part = self._table.slice(first + row, 1)
        metadata = {name: str(int(_flat(part[column], 1, self._check)[vector])) for name, column in places.items()}
        return finiteness.not_finite_error(
            hook, found, ", ".join(f"{name} {at}" for name, at in metadata.items()), _ADVICE, metadata
        )

    def sources(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the row of the tokenization of each vector, or None if the files do not record it."""
        if _ROW_INDEX not in self._table.column_names:
            return np.empty(0, np.int64)
        return _flat(self._table.slice(first, count)[_ROW_INDEX], 1, self._check).astype(np.int64)


class ExtractionIterator:
    """Iterates over some blocks of an extraction."""

    def __init__(self, table: ExtractionTable, blocks: NDArray[np.int64], block_rows: int, seed: int) -> None:
        self.widths: Mapping[str, int] = table.widths
        self._table = table
        self._blocks = blocks
        self._block_rows = block_rows
        self._seed = seed
        self._epoch = 0
        self._index = 0
        self._order: tuple[int, NDArray[np.int64]] = (-1, blocks)

    def read(self) -> Block:
        """Return the next block."""
        if self._index == len(self._blocks):
            self._epoch, self._index = self._epoch + 1, 0
        if self._order[0] != self._epoch:
            drawn = np.random.default_rng([self._seed, _EPOCHS, self._epoch])
            self._order = (self._epoch, drawn.permutation(self._blocks))
        block = int(self._order[1][self._index])
        self._index += 1
        return self._table.read(block * self._block_rows, self._block_rows)

    def position(self) -> Position:
        """Return epoch and block."""
        return {"epoch": self._epoch, "block": self._index}

    def seek(self, position: Position) -> None:
        """Move to a block of an epoch."""
        epoch, index = int(position["epoch"]), int(position["block"])
        if epoch < 0 or not 0 <= index <= len(self._blocks):
            raise errors.DataLoss(
                f"The checkpoint continues at block {index} of epoch {epoch}, but there are "
                f"{len(self._blocks)} blocks. Start the training over, without resuming."
            )
        self._epoch, self._index = epoch, index


@dataclass(frozen=True)
class ExtractionOrigin:
    """The model and tokenization that an extraction was made with; needed for splicing, not for training."""

    model: LoadedModel
    dataset: Any
    """The tokenization, a `datasets.Dataset`."""
    selection: TokenSelection = EVERY_TOKEN
    """Which tokens' activations are in the extraction."""


class ExtractionDataset:
    """A finished extraction to train on, with some of its blocks held out."""

    def __init__(
        self,
        rows: Any,
        wanted: tuple[str, ...],
        *,
        name: str = "",
        seed: int,
        held_out_rows: int,
        origin: ExtractionOrigin | None = None,
    ) -> None:
        """`rows` is the result of `open_extraction`, `wanted` are the hooks; messages call the extraction by `name`.

        At least one and at most a tenth of the blocks are held out.

        With `origin`, autoencoders are also evaluated in the model, on sequences that lie entirely in held-out blocks.
        """
        self._table = ExtractionTable(rows, wanted, name)
        self._seed = seed
        self._origin = origin
        self.widths: Mapping[str, int] = self._table.widths
        count = len(self._table)
        self._block_rows = max(1, min(_BLOCK_BYTES // self._table.row_bytes, count // _SMALLEST_NUMBER))
        blocks = -(-count // self._block_rows)
        self._train, self._held = live.split(blocks, -(-held_out_rows // self._block_rows), seed, "blocks")
        self.ahead = 2
        self.description = {
            "source": "extraction",
            "rows": count,
            "block_rows": self._block_rows,
            "held_out_blocks": len(self._held),
            "held_out": f"the last {len(self._held)} of a permutation of blocks of {self._block_rows} rows seeded with "
            f"{seed}; never trained on",
        }

    @property
    def available_samples(self) -> int:
        """Number of activations of each hook to train on, each counted once."""
        ends = np.minimum((self._train + 1) * self._block_rows, len(self._table))
        return int((ends - self._train * self._block_rows).sum()) * self._table.context_size

    def source(self, rank: int, size: int) -> ExtractionIterator:
        """Return every `size`-th block, starting with the `rank`-th."""
        blocks = live.part(self._train, rank, size, "blocks")
        return ExtractionIterator(self._table, blocks, self._block_rows, self._seed)

    def held_out(self) -> Iterator[Block]:
        """Return the held-out blocks."""
        for block in self._held.tolist():
            yield self._table.read(block * self._block_rows, self._block_rows)

    def splice_target(self, hook: str) -> SpliceTarget | None:
        """Return the model, or None without one or if it predicts no next tokens."""
        origin = self._origin
        if origin is None or not origin.model.has_head or origin.model.description.masked:
            return None
        rows = self._whole_sequences()
        if not len(rows):
            return None
        (found,) = hooks.parse_hooks([hook], origin.model.description)

        def sequences() -> Iterator[TokenSequences]:
            return live.sequences(origin.dataset.select(rows), origin.selection, origin.model.device)

        return SpliceTarget(origin.model, found, sequences)

    def _whole_sequences(self) -> list[int]:
        """Return rows of the tokenization whose vectors are all held out: neither first nor last of a run of blocks."""
        found: list[int] = []
        for block in self._held.tolist():
            sources = self._table.sources(block * self._block_rows, self._block_rows)
            found += np.unique(sources)[1:-1].tolist()
        return found


def open_extraction(folder: pathlib.Path, name: str = "", manifest: Mapping[str, Any] | None = None) -> Any:
    """Open the folder of a published extraction, memory-mapped, as `ExtractionFiles`, whose bytes are checked.

    `name` is used in messages. `manifest` is its `polytok.json`, by default the one in the folder. A folder without a
    manifest, such as activations that SAELens cached, is opened as a `datasets.Dataset` without checks. Raises
    `errors.FailedPrecondition` if there is no extraction, `errors.DataLoss` for damaged files.
    """
    if not folder.is_dir():
        raise errors.FailedPrecondition(
            f"{folder} does not exist: the extraction is not READY, or was deleted. Extract again.", reason="NOT_READY"
        )
    try:
        if manifest is None and (folder / manifests.NAME).is_file():
            manifest = manifests.decode((folder / manifests.NAME).read_bytes())
        if manifest is None or "blocks" not in manifest:
            check_whole(folder, manifest or {}, name)
            return datasets.load_from_disk(str(folder))
        return ExtractionFiles(folder, manifest, name)
    except (OSError, ValueError, pa.ArrowException, KeyError) as error:
        raise errors.DataLoss(f"{folder} cannot be opened as an extraction ({error}). Extract again.") from error


def _column(extraction: str, features: Mapping[str, Any], hook: str) -> _Column:
    for name in (hook, hook + _BFLOAT16):
        feature = features.get(name)
        if isinstance(feature, datasets.Array2D):
            length, width = feature.shape
            return _Column(name, (int(length), int(width)), np.dtype(feature.dtype).itemsize)
    found = sorted(
        name.removesuffix(_BFLOAT16) for name, each in features.items() if isinstance(each, datasets.Array2D)
    )
    where = f"the extraction {extraction}" if extraction else "the extraction"
    description = f"{hook} is not in {where}; it has {', '.join(found) or 'none'}"
    raise errors.InvalidArgument(
        f"saes.hook: {description}.",
        reason="HOOK_NOT_FOUND",
        violations=[errors.FieldViolation("saes.hook", f"{description}.")],
    )


def _vectors(flat: NDArray[Any], of: _Column) -> torch.Tensor:
    # Copied: mapped memory is read-only, and copying reads from disk here, ahead of the step.
    values = torch.from_numpy(np.array(flat)).view(-1, of.shape[1])
    return values.view(torch.bfloat16) if of.name.endswith(_BFLOAT16) else values


def _trust(_: NDArray[Any]) -> None:
    """Accept everything: there are no checksums."""


def _flat(column: pa.ChunkedArray, depth: int, check: Callable[[NDArray[Any]], None]) -> NDArray[Any]:
    """Return the numbers of nested lists, flattened, after checking them."""
    parts = []
    for chunk in column.chunks:
        array = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        for _ in range(depth):
            array = array.flatten()
        parts.append(array.to_numpy(zero_copy_only=False))
        check(parts[-1])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
