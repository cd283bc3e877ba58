"""Raw shards: Arrow IPC streams in the storage, as `datasets` memory-maps them."""

import contextlib
import json
import types
from collections.abc import Generator
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from polytok.catalog.v1 import tasks_pb2
from services.catalog.ingest import limits, text_size
from services.runtime.storage import StagedFile, Storage

SOURCES = b"polytok.sources"
"""Schema metadata key with the origins of the rows; see RawShard in polytok/catalog/v1/tasks.proto."""

ADVICE = "Read the source again: `polytok dataset retry`."
"""Advice about a shard that was damaged before it was published."""

_SIZE_FACTOR = 4
"""A shard with little text ends at this multiple of its share of text."""


class RowOrigin(NamedTuple):
    """The origin of rows, as messages name it."""

    name: str
    first_row: int = 0
    """The position in it of the first row that is written, from 0."""


class RowOrigins:
    """The origins of consecutive rows."""

    def __init__(self) -> None:
        self._origins: list[tuple[int, RowOrigin]] = []
        self._rows = 0

    @classmethod
    def of(cls, origin: RowOrigin) -> "RowOrigins":
        """Return the one origin of any number of rows."""
        origins = cls()
        origins.add(origin, 0)
        return origins

    def add(self, origin: RowOrigin, rows: int) -> None:
        """Add rows from another origin."""
        self._origins.append((self._rows, origin))
        self._rows += rows

    def from_row(self, row: int) -> bytes:
        """Return the origins of the rows from this one on, as SOURCES of the shard that begins with it."""
        ends = [*(position for position, _ in self._origins[1:]), None]
        return json.dumps(
            [
                [max(0, position - row), origin.name, origin.first_row + max(0, row - position)]
                for (position, origin), end in zip(self._origins, ends, strict=True)
                if end is None or end > row
            ]
        ).encode()


class ShardWriter:
    """Writes rows as shards, the files of one task.

    A shard ends after the row with which its text reaches `shard_bytes`, regardless of how rows are batched, so that
    the same rows make the same shards. If the block ends with an error, all files are removed.
    """

    def __init__(self, storage: Storage, prefix: str, suffix: str, shard_bytes: int, origins: RowOrigins) -> None:
        self.shards: list[tasks_pb2.RawShard] = []
        """The finished shards."""
        self.rows = 0
        """Number of rows added."""
        self._storage = storage
        self._prefix = prefix
        self._suffix = suffix
        self._shard_bytes = max(shard_bytes, 1)
        self._origins = origins
        self._shard: _Shard | None = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if error is None:
            self._end_shard()
            return
        if self._shard is not None:
            self._shard.abandon(error)
            self._shard = None
        with contextlib.suppress(Exception):
            self.discard()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows. A schema that differs from that of the previous rows starts a new shard."""
        if self._shard is not None and not self._shard.schema.equals(batch.schema, check_metadata=True):
            self._end_shard()
        sizes = text_size.text_bytes_per_row(batch)
        start = 0
        while start < batch.num_rows:
            rows = self._rows_that_fit(sizes[start : start + limits.BATCH_ROWS])
            self._add(batch.slice(start, rows), int(sizes[start : start + rows].sum()))
            self.rows += rows
            start += rows

    def discard(self) -> None:
        """Remove the finished shards."""
        for shard in self.shards:
            self._storage.delete(shard.key)
        self.shards = []

    def _rows_that_fit(self, sizes: Any) -> int:
        """Return how many more rows fit into the current shard and the current batch."""
        written = self._shard.text_bytes if self._shard else 0
        room = self._shard_bytes - written
        total = np.cumsum(sizes)
        to_shard_end = int(np.searchsorted(total, room)) + 1
        in_a_batch = max(int(np.searchsorted(total, limits.BATCH_BYTES)), 1)
        return min(len(sizes), to_shard_end, in_a_batch, limits.BATCH_ROWS - self._pending_rows)

    def _add(self, batch: pa.RecordBatch, text_bytes: int) -> None:
        if self._shard is None:
            key = f"{self._prefix}-{len(self.shards):05d}-{self._suffix}.arrow"
            about = {SOURCES: self._origins.from_row(self.rows)}
            self._shard = _Shard(self._storage, key, batch.schema, about)
        if self._pending_bytes + batch.nbytes > limits.BATCH_BYTES:
            self._flush()
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += batch.nbytes
        self._shard.text_bytes += text_bytes
        if self._pending_rows >= limits.BATCH_ROWS:
            self._flush()
        if self._shard.text_bytes >= self._shard_bytes or self._shard.size >= _SIZE_FACTOR * self._shard_bytes:
            self._end_shard()

    def _flush(self) -> None:
        if self._shard is not None and self._pending:
            for batch in pa.Table.from_batches(self._pending).combine_chunks().to_batches():
                self._shard.write(batch)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def _end_shard(self) -> None:
        self._flush()
        if self._shard is not None:
            shard, self._shard = self._shard, None
            self.shards.append(shard.finish())


class _Shard:
    """One file that is being written."""

    def __init__(self, storage: Storage, key: str, schema: pa.Schema, about: dict[bytes, bytes]) -> None:
        self.text_bytes = 0
        self.schema = schema
        self._key = key
        self._rows = 0
        self._storing = storage.create(key)
        self._file: StagedFile = self._storing.__enter__()
        self._stream = pa.ipc.new_stream(self._file, schema.with_metadata({**(schema.metadata or {}), **about}))

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._file.tell()

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a record batch."""
        try:
            self._stream.write_batch(batch)
        except BaseException as error:
            self.abandon(error)
            raise
        self._rows += batch.num_rows

    def abandon(self, error: BaseException) -> None:
        """Discard the file."""
        with contextlib.suppress(BaseException):
            self._storing.__exit__(type(error), error, error.__traceback__)

    def finish(self) -> tasks_pb2.RawShard:
        """Finish the file and give it its name."""
        try:
            self._stream.close()
        except BaseException as error:
            self.abandon(error)
            raise
        self._storing.__exit__(None, None, None)
        return tasks_pb2.RawShard(
            key=self._key,
            num_rows=self._rows,
            size_bytes=self._file.size,
            sha256=self._file.sha256,
            text_bytes=self.text_bytes,
        )


@contextlib.contextmanager
def opened(storage: Storage, shard: tasks_pb2.RawShard) -> Generator[pa.RecordBatchReader]:
    """Open the record batches of a shard.

    The block must read all of them, and succeeds only if the shard is undamaged; otherwise it raises DataLoss.
    """
    with (
        storage.verified(shard.key, shard.sha256, shard.size_bytes, ADVICE) as file,
        pa.ipc.open_stream(file) as reader,
    ):
        yield reader
