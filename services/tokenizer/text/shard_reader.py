"""Read a raw shard in one pass: the texts, a bounded slice at a time, and the checksum."""

import posixpath
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import pyarrow as pa

from polytok import errors
from polytok.catalog.v1 import tasks_pb2
from services.runtime.storage import Storage
from services.runtime.storage.checksums import CheckedFile
from services.tokenizer.sequences import bounded_runs
from services.tokenizer.sequences.ragged import Offsets
from services.tokenizer.text import columns

SLICE_BYTES = 8 << 20
"""Bytes of text that are encoded at once: enough for all threads of an engine, little compared to its memory."""
_SLICE_ROWS = 1 << 17


class TextSlice(NamedTuple):
    """Some consecutive texts of a shard."""

    texts: pa.Array
    """Large strings."""
    text_bytes: int
    """Their total length."""
    position: int
    """Number of bytes of the file read up to and including them."""
    rows: Offsets | None = None
    """The rows of the shard, from 0, in order; None if unknown."""


def open_verified(storage: Storage, shard: tasks_pb2.RawShard) -> AbstractContextManager[CheckedFile]:
    """Open a shard, and verify its checksum at the end of the block.

    A checksum error replaces an error in the block, which it explains.
    """
    return storage.verified(shard.key, shard.sha256, shard.size_bytes, "Add the dataset again.")


class Column(Protocol):
    """A column of texts, and any columns needed to render it."""

    @property
    def names(self) -> list[str]:
        """The names of the columns that are read, after `check`."""

    def check(self, schema: pa.Schema, where: str) -> None:
        """Raise if the column is missing or holds something else."""

    def texts(
        self, rows: pa.RecordBatch, where: str, first_row: int, read_from: columns.Origin | None = None, /
    ) -> pa.Array:
        """Return the texts of these rows as large strings."""


def pieces(
    file: CheckedFile, shard: tasks_pb2.RawShard, column: Column, *, dataset: str = "", first_row: int = 0
) -> Iterator[TextSlice]:
    """Yield the texts of a shard in order, small batches merged and large ones split.

    Users know the dataset and its rows, not Polytok's shards: messages name those where they are given.
    """
    pending: list[pa.Array] = []
    size = begin = 0
    for texts in _batches(file, shard, column, dataset, first_row):
        pending.append(texts)
        size += texts.nbytes
        if size >= SLICE_BYTES:
            yield from _sliced(pa.concat_arrays(pending), begin, file.position)
            pending, size, begin = [], 0, file.position
    if pending:
        yield from _sliced(pa.concat_arrays(pending), begin, file.position)


def _batches(
    file: CheckedFile, shard: tasks_pb2.RawShard, column: Column, dataset: str, first_row: int
) -> Iterator[pa.Array]:
    name_of_file = posixpath.basename(shard.key)
    where, row = (dataset, first_row) if dataset else (name_of_file, 0)
    try:
        with pa.ipc.open_stream(file) as stream:
            column.check(stream.schema, where)
            origin = columns.origin(stream.schema)
            for batch in stream:
                texts = column.texts(batch.select(column.names), where, row, origin)
                row += len(texts)
                if origin:
                    origin = origin._replace(first_row=origin.first_row + len(texts))
                yield texts
    except pa.ArrowInvalid as error:
        raise errors.InvalidArgument(
            f"{name_of_file} is not a valid Arrow stream ({error}). Add the dataset again.",
            reason="SOURCE_INVALID",
        ) from error


def _sliced(texts: pa.Array, begin: int, end: int) -> Iterator[TextSlice]:
    ends = bounded_runs.ends_of(texts)
    for start, stop in bounded_runs.runs(ends, SLICE_BYTES, _SLICE_ROWS):
        share = ends[stop] / ends[-1] if ends[-1] else 1.0
        yield TextSlice(texts[start:stop], int(ends[stop] - ends[start]), begin + round(float(share) * (end - begin)))
