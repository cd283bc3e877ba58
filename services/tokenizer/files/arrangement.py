"""Read the staged documents of a dataset in the order of the files."""

import collections
import itertools
from collections.abc import Iterator

import numpy as np

from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import stages_pb2
from services.runtime.storage import Storage
from services.tokenizer.files import staging
from services.tokenizer.sequences import bounded_runs, permutation, ragged
from services.tokenizer.sequences.ragged import Offsets, Ragged

_ROWS = 1 << 13
_IDS = 1 << 20
"""Number of rows or ids that are read at a time: little memory, and few calls for each document."""
_OPEN = 128


def read(storage: Storage, task: stages_pb2.ArrangeTask | stages_pb2.ArrangedTask) -> stages_pb2.Arrangement:
    """Read the arrangement of a task."""
    data = storage.read_checked(task.arrangement_key, task.arrangement_sha256, staging.ADVICE)
    return stages_pb2.Arrangement.FromString(data)


class StagedDocuments:
    """The remaining documents of a dataset, by their places in its order or in the shuffled order."""

    def __init__(
        self,
        storage: Storage,
        arrangement: stages_pb2.Arrangement,
        parameters: tokenizations_pb2.TokenizationParameters,
    ) -> None:
        self._storage = storage
        self._staged = arrangement.documents
        self._first_rows = np.array([documents.first_row for documents in self._staged], np.int64)
        self._shuffled = (
            permutation.Permutation(parameters.shuffle_seed, arrangement.dataset_rows)
            if parameters.HasField("shuffle_seed")
            else None
        )
        self._duplicates = (
            staging.read(storage, staging.Staged(arrangement.duplicates_key, arrangement.duplicates_sha256), np.uint8)
            if arrangement.duplicates_key
            else None
        )
        self._open: collections.OrderedDict[int, staging.Reader] = collections.OrderedDict()

    def pieces(self, start: int, stop: int, rows: int = _ROWS) -> Iterator[Ragged]:
        """Yield the documents at the places from start up to stop, a few at a time."""
        for first in range(start, stop, rows):
            yield from self._parts(first, min(first + rows, stop))

    def _parts(self, start: int, stop: int) -> Iterator[Ragged]:
        rows = np.arange(start, stop)
        if self._shuffled is not None:
            rows = self._shuffled.rows(rows)
        shards, begins, lengths = self._found(rows)
        for first, last in bounded_runs.runs(ragged.offsets_of(lengths), _IDS, len(lengths)):
            run = slice(first, last)
            yield self._gathered(shards[run], begins[run], lengths[run])

    def _found(self, rows: Offsets) -> tuple[Offsets, Offsets, Offsets]:
        """Return shard, offset and length of the remaining documents of these rows."""
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        begins, lengths, is_left = np.empty_like(rows), np.empty_like(rows), np.empty(len(rows), np.bool_)
        for shard, places in _grouped(shards):
            local = rows[places] - self._first_rows[shard]
            begins[places], lengths[places], is_left[places] = self._reader(shard).find(local)
        if self._duplicates is not None:
            is_left &= (self._duplicates[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 0
        return shards[is_left], begins[is_left], lengths[is_left]

    def _gathered(self, shards: Offsets, begins: Offsets, lengths: Offsets) -> Ragged:
        offsets = ragged.offsets_of(lengths)
        if len(shards) and (shards == shards[0]).all() and np.array_equal(begins - begins[0], offsets[:-1]):
            # They are stored in this order, one after the other.
            return Ragged(self._reader(int(shards[0])).run(int(begins[0]), int(begins[0] + offsets[-1])), offsets)
        values = np.empty(int(offsets[-1]), np.int32)
        for shard, places in _grouped(shards):
            self._reader(shard).copy(begins[places], lengths[places], values, offsets[:-1][places])
        return Ragged(values, offsets)

    def _reader(self, shard: int) -> staging.Reader:
        reader = self._open.get(shard)
        if reader is None:
            reader = self._open[shard] = staging.Reader(self._storage, self._staged[shard])
        self._open.move_to_end(shard)
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return reader


def _grouped(shards: Offsets) -> Iterator[tuple[int, Offsets]]:
    """Yield each shard with its places."""
    order = np.argsort(shards, kind="stable")
    in_order = shards[order]
    edges = [0, *(np.flatnonzero(np.diff(in_order)) + 1).tolist(), len(order)]
    for first, last in itertools.pairwise(edges):
        if last > first:
            yield int(in_order[first]), order[first:last]
