"""Finds documents whose text occurred before in the dataset, by the hashes of all texts."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytok.tokenizer.v1 import stages_pb2
from services.runtime.jobs.child import TaskContext
from services.runtime.storage import Storage
from services.tokenizer.files import arrangement, staging
from services.tokenizer.rows.ragged import Offsets
from services.tokenizer.text import hashing
from services.tokenizer.text.hashing import Hashes


class Collector:
    """Collects the hashes of a raw shard's documents."""

    def __init__(self, first_row: int) -> None:
        self._first_row = first_row
        self._high: list[Hashes] = []
        self._low: list[Hashes] = []
        self._rows: list[Offsets] = []

    def add(self, texts: pa.Array, rows: Offsets) -> None:
        """Takes the texts of further rows."""
        high, low = hashing.hashes(texts)
        self._high.append(high)
        self._low.append(low)
        self._rows.append(rows + self._first_row)

    def write(self, storage: Storage, key: str) -> str:
        """Writes them as StagedDocuments.hashes_key describes, and returns the key."""
        if not self._rows:
            return ""
        high, low, rows = (np.concatenate(parts) for parts in (self._high, self._low, self._rows))
        order = np.argsort(high, kind="stable")
        return staging.write(storage, key, high[order], low[order], rows[order])


def find(task: stages_pb2.ArrangedTask, storage: Storage, context: TaskContext) -> stages_pb2.FindDuplicatesResult:
    """Finds duplicates among the hashes of one of `count` equal shares of all that there can be."""
    staged = arrangement.read(storage, task.arrangement_key).documents
    keys = [documents.hashes_key for documents in staged if documents.hashes_key]
    first, last = ((share << 64) // task.count for share in (task.ordinal, task.ordinal + 1))
    parts = []
    for number, part in enumerate(_shares(storage, keys, first, last)):
        parts.append(part)
        context.report(number + 1, len(keys))
    key = staging.key(task.tokenized_key, "duplicates", task.ordinal, task.count, context.tag)
    return stages_pb2.FindDuplicatesResult(rows_key=staging.write(storage, key, later(parts)))


def _shares(storage: Storage, keys: Sequence[str], first: int, last: int) -> Iterator[tuple[Hashes, Hashes, Offsets]]:
    """Yields of each file the hashes from first up to last, both halves, and their rows."""
    for key in keys:
        high, low, rows = staging.mapped(storage, key, np.uint64).reshape(3, -1)
        begin = int(np.searchsorted(high, np.uint64(first)))
        end = len(high) if last >> 64 else int(np.searchsorted(high, np.uint64(last)))
        yield high[begin:end], low[begin:end], rows[begin:end].view(np.int64)


def later(parts: Sequence[tuple[Hashes, Hashes, Offsets]]) -> Offsets:
    """Returns in order the rows whose hash an earlier row has, given both halves of the hashes, and the rows."""
    if not parts:
        return np.empty(0, np.int64)
    high, low, rows = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((rows, low, high))
    high, low = high[order], low[order]
    again = np.flatnonzero((high[1:] == high[:-1]) & (low[1:] == low[:-1])) + 1
    return np.sort(rows[order[again]])


def marks(storage: Storage, keys: Sequence[str], num_rows: int) -> NDArray[np.uint8]:
    """Returns a bit for each row of the dataset, as Arrangement.duplicates_key describes, set for the rows found."""
    bits = np.zeros(-(-num_rows // 8), np.uint8)
    for key in keys:
        rows = staging.mapped(storage, key, np.int64)
        np.bitwise_or.at(bits, rows >> 3, np.left_shift(1, rows & 7).astype(np.uint8))
    return bits
