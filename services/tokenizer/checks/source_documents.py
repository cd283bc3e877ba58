"""Locate the documents of a tokenization's files in the raw shards of its dataset."""

import contextlib
import functools
import hashlib
import json
import posixpath
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.runtime.storage import Storage
from services.tokenizer.sequences import packing_offsets, permutation, ragged
from services.tokenizer.sequences.ragged import Offsets
from services.tokenizer.text import preprocessing, shard_reader, text_hashes

_ROWS = 1 << 12
_OPEN = 4
_FAR_BITS = 40
_HASHES = 1 << 24
"""Number of hashes of documents that are compared at once: about 500 MB. A larger dataset is read several times."""


class KeptDocuments(NamedTuple):
    """Documents that no filter drops."""

    texts: pa.Array
    rows: Offsets
    """Their rows in the dataset."""


class SourceDocuments:
    """The documents of a dataset as a tokenization reads them: shuffled, cleaned and filtered."""

    def __init__(
        self,
        storage: Storage,
        raw: str,
        column: shard_reader.Column,
        parameters: tokenizations_pb2.TokenizationParameters,
    ) -> None:
        """`raw` is the storage key of the dataset's folder."""
        self._storage = storage
        self._column = column
        self._parameters = parameters
        listed = json.loads(storage.read_bytes(f"{raw}/state.json"))["_data_files"]
        self._keys = [f"{raw}/{each['filename']}" for each in listed]
        self._batches = functools.lru_cache(_OPEN)(self._opened)

    def source(self, ordinal: int) -> str:
        """Return the name of the raw shard that a file was made from; empty if it was made from several."""
        return "" if self._parameters.HasField("shuffle_seed") else posixpath.basename(self._keys[ordinal])

    def of_file(self, ordinal: int, count: int) -> Iterator[pa.Array]:
        """Yield the documents of one file, in order."""
        return self._between(*self._bounds(ordinal, count))

    def after(self, ordinal: int, count: int) -> Iterator[pa.Array]:
        """Yield the documents of the files after one, in which its last sequence may continue."""
        return self._between(self._bounds(ordinal, count)[1], self._taken)

    def _bounds(self, ordinal: int, count: int) -> tuple[int, int]:
        """Return the places of the first document of a file and of the first after it."""
        if self._parameters.HasField("shuffle_seed"):
            return ordinal * self._taken // count, (ordinal + 1) * self._taken // count
        start = int(self._ends[ordinal])
        stop = start + self._num_rows(ordinal)
        return start, min(stop, self._taken) if self._is_whole else stop

    def _between(self, start: int, stop: int) -> Iterator[pa.Array]:
        for first in range(start, stop, _ROWS):
            yield self._left(np.arange(first, min(first + _ROWS, stop))).texts

    def at(self, ordinal: int, count: int, places: Sequence[int]) -> Iterator[pa.Array]:
        """Yield the documents at these places of a file; the places ascend."""
        wanted = np.array(places)
        first = 0
        for texts in self.of_file(ordinal, count):
            inside = wanted[(wanted >= first) & (wanted < first + len(texts))] - first
            if len(inside):
                yield texts.take(pa.array(inside))
            first += len(texts)
            if first > wanted[-1]:
                return

    def check(self, fingerprint: str) -> None:
        """Read the raw shards; raise DataLoss unless they match the dataset's fingerprint."""
        if not fingerprint:
            # Imported from a version without fingerprints.
            return
        digests = [self._digest(key) for key in self._keys]
        if hashlib.sha256("".join(digests).encode()).hexdigest() != fingerprint:
            raise errors.DataLoss(
                "The raw files of the dataset have changed, so no document can be compared with its ids. "
                "Delete the dataset with its tokenizations and add it again; until then, verification "
                "without a sample compares the files with their checksums."
            )

    def _digest(self, key: str) -> str:
        with contextlib.suppress(errors.NotFound):
            return self._storage.sha256(key)
        return ""

    @functools.cached_property
    def _is_whole(self) -> bool:
        """Return whether a file depends on more than its own raw shard."""
        asked = self._parameters
        chosen = any(asked.HasField(field) for field in ("shuffle_seed", "max_documents"))
        return chosen or asked.filters.drop_duplicates or packing_offsets.are_needed(asked)

    @functools.cached_property
    def _ends(self) -> Offsets:
        """Return the first row of each raw shard, and the end of the last."""
        if not self._is_whole:
            # Any numbers far enough apart will do; counting would require reading each shard.
            return np.arange(len(self._keys) + 1) << _FAR_BITS
        return ragged.offsets_of(np.array([self._num_rows(shard) for shard in range(len(self._keys))]))

    def _num_rows(self, shard: int) -> int:
        return sum(map(len, self._batches(shard)))

    @property
    def _taken(self) -> int:
        """Return how many documents the tokenization reads, before any is dropped."""
        total = int(self._ends[-1])
        limited = self._parameters.HasField("max_documents")
        return min(total, self._parameters.max_documents) if limited else total

    def _left(self, places: Offsets) -> KeptDocuments:
        kept = self._kept(places)
        if not self._parameters.filters.drop_duplicates or not len(self._duplicates):
            return kept
        found = np.searchsorted(self._duplicates, kept.rows).clip(max=len(self._duplicates) - 1)
        is_left = self._duplicates[found] != kept.rows
        return KeptDocuments(kept.texts.filter(pa.array(is_left)), kept.rows[is_left])

    def _kept(self, places: Offsets) -> KeptDocuments:
        """Return what every filter except the one for duplicates leaves at these places."""
        rows = self._shuffled.rows(places) if self._shuffled is not None else places
        cleaner = preprocessing.Preprocessor(self._cleaning, 0)
        piece = shard_reader.TextSlice(self._read(rows), 0, 0)
        for cleaned in cleaner.cleaned(iter([piece])):
            assert cleaned.rows is not None  # set by the cleaner
            return KeptDocuments(cleaned.texts, rows[cleaned.rows])
        return KeptDocuments(pa.array([], pa.large_string()), rows[:0])

    @functools.cached_property
    def _shuffled(self) -> permutation.Permutation | None:
        if not self._parameters.HasField("shuffle_seed"):
            return None
        return permutation.Permutation(self._parameters.shuffle_seed, int(self._ends[-1]))

    @functools.cached_property
    def _cleaning(self) -> tokenizations_pb2.TokenizationParameters:
        """Return the preprocessing of documents that are already selected: no limit, and in the given order."""
        return tokenizations_pb2.TokenizationParameters(
            null_text=self._parameters.null_text,
            normalization=self._parameters.normalization,
            filters=self._parameters.filters,
        )

    def _read(self, rows: Offsets) -> pa.Array:
        """Return the texts of these rows of the dataset, in this order."""
        order = np.argsort(rows, kind="stable")
        found = []
        in_order = rows[order]
        for shard in np.unique(np.searchsorted(self._ends, in_order, side="right") - 1):
            first = int(self._ends[shard])
            for batch in self._batches(int(shard)):
                begin, end = np.searchsorted(in_order, [first, first + len(batch)])
                if end > begin:
                    chosen = batch.take(pa.array(in_order[begin:end] - first))
                    where = posixpath.basename(self._keys[shard])
                    found.append(self._column.texts(chosen, where, first - int(self._ends[shard])))
                first += len(batch)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_arrays(found).take(pa.array(back))

    def _opened(self, shard: int) -> list[pa.RecordBatch]:
        """Yield the batches of a raw shard with the columns that are read.

        A local file is memory-mapped.
        """
        key = self._keys[shard]
        path = self._storage.local_path(key)
        # The storage's own message says what is missing.
        with self._storage.open(key) as file:
            source = pa.memory_map(str(path)) if path is not None else pa.BufferReader(file.read())
        with source, pa.ipc.open_stream(source) as stream:
            self._column.check(stream.schema, posixpath.basename(key))
            return [batch.select(self._column.names) for batch in stream]

    @functools.cached_property
    def _duplicates(self) -> Offsets:
        """Return the rows of all documents that are dropped as duplicates, in order."""
        shares = -(-self._taken // _HASHES)
        found = [self._duplicates_of(share, shares) for share in range(shares)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def _duplicates_of(self, share: int, shares: int) -> Offsets:
        parts = []
        for first in range(0, self._taken, _ROWS):
            kept = self._kept(np.arange(first, min(first + _ROWS, self._taken)))
            high, low = text_hashes.hash_texts(kept.texts)
            mine = high % np.uint64(shares) == share
            parts.append((high[mine], low[mine], kept.rows[mine]))
        return text_hashes.find_repeated_rows(parts)
