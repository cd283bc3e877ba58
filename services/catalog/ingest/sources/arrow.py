"""Arrow IPC, file and stream.

An Arrow file is a stream between two magic words, with a footer for random access. It is read as the stream that it
holds, so that it need not be sought in and may be compressed; the closing word tells that it is whole.
"""

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from services.catalog.ingest import failures, limits
from services.catalog.ingest.sources import content
from services.catalog.ingest.sources.compression import Readable

_MAGIC = b"ARROW1"
_FILE_HEADER_BYTES = 8
_MESSAGE_BYTES = 192 << 20


def batches(source: Readable, name: str) -> Iterator[pa.RecordBatch]:
    """Record batches, small ones even where the file has large ones; an empty one first, for the columns."""
    stream = _Stream(source, name)
    with content.explained(name, "Arrow"):
        reader = pa.ipc.open_stream(pa.PythonFile(stream, mode="r"))
        yield pa.RecordBatch.from_pylist([], reader.schema)
        for batch in reader:
            yield from _pieces(batch, name)
    stream.check_end()


def _pieces(batch: pa.RecordBatch, name: str) -> Iterator[pa.RecordBatch]:
    content.validate(batch, name)
    rows = max(1, min(limits.BATCH_ROWS, limits.BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


class _Stream(io.RawIOBase):
    """The stream within a file or stream, with a bound on what is read at once."""

    def __init__(self, source: Readable, name: str) -> None:
        self._source = source
        self._name = name
        self._head = _exactly(source, _FILE_HEADER_BYTES)
        self._is_file = self._head.startswith(_MAGIC)
        if self._is_file:
            self._head = b""

    def readable(self) -> bool:
        """It can be read."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes. Arrow asks for the body of a record batch at once."""
        assert size is not None
        if size > _MESSAGE_BYTES:
            raise failures.invalid(
                f"{self._name} has a record batch of {size >> 20} MiB; {_MESSAGE_BYTES >> 20} MiB is the most."
                " Write it again in smaller batches, or as Parquet."
            )
        head, self._head = self._head[:size], self._head[size:]
        return head + _exactly(self._source, size - len(head))

    def check_end(self) -> None:
        """Refuses an Arrow file without its closing word."""
        tail = b""
        while chunk := self._source.read(limits.BLOCK_BYTES):
            tail = (tail + chunk)[-len(_MAGIC) :]
        if self._is_file and tail != _MAGIC:
            raise failures.invalid(f"{self._name} is not whole Arrow: its end is missing. Copy or write it again.")


def _exactly(source: Any, size: int) -> bytes:
    """So many bytes, or all that are left."""
    chunks = []
    while size > 0 and (chunk := source.read(size)):
        chunks.append(chunk)
        size -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
