"""Find documents whose text occurred before in the dataset, by the hashes of all texts."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytok.tokenizer.v1 import stages_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime.storage import Storage
from services.tokenizer.files import arrangement, staging
from services.tokenizer.sequences.ragged import Offsets
from services.tokenizer.text import text_hashes
from services.tokenizer.text.text_hashes import Hashes


class HashCollector:
    """Collects the hashes of a raw shard's documents."""

    def __init__(self, first_row: int) -> None:
        self._first_row = first_row
        self._high: list[Hashes] = []
        self._low: list[Hashes] = []
        self._rows: list[Offsets] = []

    def add(self, texts: pa.Array, rows: Offsets) -> None:
        """Add the texts of further rows."""
        high, low = text_hashes.hash_texts(texts)
        self._high.append(high)
        self._low.append(low)
        self._rows.append(rows + self._first_row)

    def write(self, storage: Storage, key: str) -> staging.Staged:
        """Write the hashes as StagedDocuments.hashes_key describes.

        Without any there is no file, and the key is empty.
        """
        if not self._rows:
            return staging.Staged()
        high, low, rows = (np.concatenate(parts) for parts in (self._high, self._low, self._rows))
        order = np.argsort(high, kind="stable")
        return staging.write_blocks(storage, key, high[order], low[order], rows[order])


def find(task: stages_pb2.ArrangedTask, storage: Storage, context: TaskContext) -> stages_pb2.FindDuplicatesResult:
    """Find duplicates among the hashes of one of `count` equal shares of the hash space."""
    documents = arrangement.read(storage, task).documents
    staged = [staging.Staged(each.hashes_key, each.hashes_digests_sha256) for each in documents if each.hashes_key]
    first, last = ((share << 64) // task.count for share in (task.ordinal, task.ordinal + 1))
    parts = []
    for number, each in enumerate(staged):
        parts.append(_share(storage, each, first, last))
        context.report(number + 1, len(staged))
    key = staging.key(task.tokenized_key, "duplicates", task.ordinal, task.count, context.tag)
    written = staging.write(storage, key, text_hashes.find_repeated_rows(parts))
    return stages_pb2.FindDuplicatesResult(rows_key=written.key, rows_sha256=written.sha256)


def _share(storage: Storage, staged: staging.Staged, first: int, last: int) -> tuple[Hashes, Hashes, Offsets]:
    """Return the hashes of a file from first up to last, both halves, and their rows."""
    mapped = staging.Mapped(storage, staged)
    checked = mapped.checked()
    size = len(mapped.content) // 3

    def read(column: int, begin: int, end: int) -> Hashes:
        start = column * size
        return checked.read(start + 8 * begin, start + 8 * end).view(np.uint64)

    unchecked = mapped.content[:size].view(np.uint64)
    begin = int(np.searchsorted(unchecked, np.uint64(first)))
    end = len(unchecked) if last >> 64 else int(np.searchsorted(unchecked, np.uint64(last)))
    # The search read hashes that may have been changed: those around the result reveal it, because they are in order.
    before, after = read(0, max(0, begin - 1), begin), read(0, end, min(end + 1, len(unchecked)))
    high = read(0, begin, end)
    is_missing = (before.size and int(before[0]) >= first) or (after.size and int(after[0]) < last)
    if is_missing or _is_outside(high, first, last):
        raise mapped.damaged("its hashes are not in order")
    return high, read(1, begin, end), read(2, begin, end).view(np.int64)


def _is_outside(hashes: Hashes, first: int, last: int) -> bool:
    """Return whether sorted hashes exceed a share."""
    return bool(len(hashes)) and not first <= int(hashes[0]) <= int(hashes[-1]) < last


def build_duplicate_bits(storage: Storage, found: Sequence[staging.Staged], num_rows: int) -> NDArray[np.uint8]:
    """Return one bit per row of the dataset, as Arrangement.duplicates_key describes, set for the rows found."""
    bits = np.zeros(-(-num_rows // 8), np.uint8)
    for each in found:
        rows = staging.read(storage, each, np.int64)
        np.bitwise_or.at(bits, rows >> 3, np.left_shift(1, rows & 7).astype(np.uint8))
    return bits
