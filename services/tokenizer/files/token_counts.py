"""Token frequencies of a tokenization: counted while files are written, added up when all are published."""

import threading

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.runtime.storage import Storage, verification
from services.runtime.storage.checksums import CheckedFile
from services.tokenizer.files import staging
from services.tokenizer.models import loader
from services.tokenizer.sequences.ragged import Ids

MOST_FREQUENT = 20
"""Number of most frequent tokens that are listed."""

_LARGEST_ID = 1 << 24
"""No vocabulary is nearly as large; the content of a damaged file must not allocate unbounded memory."""

_LEAST_IDS = 1 << 16
"""Minimum capacity: old tokenizations did not record the size of their vocabulary."""

_STORED = np.dtype("<u4")


def _count(values: Ids, counts: NDArray[np.uint32]) -> int:
    beyond = 0
    for place in range(len(values)):
        token = np.uint32(values[place])
        # A negative number is a large one here.
        if token < np.uint32(len(counts)):
            counts[token] += np.uint32(1)
        else:
            beyond += 1
    return beyond


# Compiled when imported, as in `row_copy`. It takes a third of the time of numpy.bincount, which converts first. The
# counts of a batch have 32 bits, so that those of a vocabulary stay in the processor's cache.
_count_ids = numba.njit(
    numba.int64(numba.types.Array(numba.int32, 1, "C", readonly=True), numba.uint32[::1]), nogil=True
)(_count)


class TokenCounts:
    """Counts the tokens of files; safe to use from several threads."""

    def __init__(self, vocab_size: int) -> None:
        self._counts = np.zeros(max(vocab_size, _LEAST_IDS), np.int64)
        self._lock = threading.Lock()

    def add(self, ids: Ids) -> None:
        """Count these tokens; call from one thread only."""
        self._counts = add_counts(ids, self._counts)

    def write(self, storage: Storage, key: str) -> staging.Staged:
        """Write the counts, as TokenizedFile.counts_key describes.

        Without any there is no file, and the key is empty.
        """
        ids = np.flatnonzero(self._counts)
        return staging.write(storage, key, ids.astype(_STORED), self._counts[ids].astype(_STORED))

    def read(self, storage: Storage, file: tasks_pb2.TokenizedFile) -> bool:
        """Add the output of `write` for a file; return False, and add nothing, if it is missing or damaged."""
        if not file.counts_key:
            return False
        try:
            data = staging.read(storage, staging.Staged(file.counts_key, file.counts_sha256), _STORED)
        except (errors.NotFound, errors.DataLoss):
            return False
        ids, counts = data.reshape(2, -1)
        found = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
        found[ids] = counts
        self._merge(found)
        return True

    def measure(self, storage: Storage, file: tasks_pb2.TokenizedFile) -> tuple[int, str]:
        """Count the tokens of a file; return its size in bytes and its sha256.

        These show whether the file is what was written; if it is not, its counts are useless. The counts made while it
        was written are used if they still exist, which avoids reading its rows.
        """
        if self.read(storage, file):
            return verification.measured(storage, file.key)
        # Counted and hashed in one pass: these are the very bytes that were counted.
        with storage.open(file.key) as opened:
            checked = CheckedFile(opened)
            try:
                self._add(pa.ipc.open_stream(checked))
            # Damaged bytes raise any of these; the checksum reports the damage.
            except (pa.ArrowException, OSError, KeyError, errors.DataLoss):
                found = checked.drain()
                if found == (file.size_bytes, file.sha256):
                    raise
                return found
            return checked.drain()

    def _add(self, stream: pa.RecordBatchReader) -> None:
        found = np.zeros(len(self._counts), np.int64)
        with stream:
            for batch in stream:
                found = add_counts(_tokens(batch), found)
        self._merge(found)

    def _merge(self, found: NDArray[np.int64]) -> None:
        with self._lock:
            self._counts = _sum(self._counts, found)

    def fill_in(self, statistics: tokenizations_pb2.TokenizationStatistics) -> None:
        """Return the number of distinct tokens and the most frequent ones."""
        statistics.num_unique_tokens = int(np.count_nonzero(self._counts))
        total = max(1, int(self._counts.sum()))
        # Of equally frequent tokens, the lowest ids.
        for token in np.lexsort((np.arange(len(self._counts)), -self._counts))[:MOST_FREQUENT].tolist():
            if count := int(self._counts[token]):
                statistics.most_frequent_tokens.add(id=token, count=count, share=count / total)


def add_counts(ids: Ids, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add tokens to counts; the result may be longer. Raises DataLoss for what cannot be an id."""
    table = np.zeros(len(counts), np.uint32)
    beyond_any = _count_ids(ids, table)
    counts = counts + table
    if not beyond_any:
        return counts
    # With a tokenizer whose ids have gaps, some exceed the size of the vocabulary.
    beyond = ids[(ids < 0) | (ids >= len(counts))]
    if beyond.min() < 0 or beyond.max() >= _LARGEST_ID:
        raise errors.DataLoss(f"{int(beyond.max())} is not a valid token id. Retry the tokenization.")
    return _sum(counts, np.bincount(beyond))


def name_tokens(statistics: tokenizations_pb2.TokenizationStatistics, tokenizer: loader.Tokenizer) -> None:
    """Add the vocabulary's entries for the most frequent tokens."""
    for each in statistics.most_frequent_tokens:
        each.piece = tokenizer.backend.id_to_token(each.id) or ""


def _tokens(batch: pa.RecordBatch) -> Ids:
    ids: Ids = batch.column("input_ids").values.to_numpy()
    mask: NDArray[np.int8] = batch.column("attention_mask").values.to_numpy()
    if len(ids) != len(mask):
        raise errors.DataLoss("A sequence and its mask are of different lengths. Retry the tokenization.")
    return ids if mask.all() else ids[mask == 1]


def _sum(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    longer[: len(shorter)] += shorter
    return longer
