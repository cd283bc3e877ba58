"""Arrow IPC, file and stream format.

An Arrow file is a stream between two magic strings, with a footer for random access. It is read as the stream in it, so
it needs no seeking and may be compressed; the closing magic string shows that it is complete.
"""

import io
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from services.catalog.ingest import limits, schemas, source_errors
from services.catalog.ingest.sources import arrow_messages, content_validation
from services.catalog.ingest.sources.compression import Readable

_MAGIC = b"ARROW1"
_FILE_HEADER_BYTES = 8
_MESSAGE_BYTES = 192 << 20
_DECOMPRESSED_BYTES = 512 << 20
"""Limit for a record batch with compressed buffers. Uncompressed ones are bounded by the message."""


def batches(source: Readable, name: str) -> Iterator[pa.RecordBatch]:
    """Yield record batches, small ones even if the file has large ones; an empty one first, for the columns."""
    stream = _Stream(source, name)
    with content_validation.explained(name, "Arrow"):
        reader = pa.ipc.open_stream(pa.PythonFile(stream, mode="r"))
        yield schemas.empty(reader.schema)
        for batch in reader:
            yield from _pieces(batch, name)
    stream.check_end()


def _pieces(batch: pa.RecordBatch, name: str) -> Iterator[pa.RecordBatch]:
    content_validation.validate(batch, name)
    rows = max(1, min(limits.BATCH_ROWS, limits.BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


class _Stream(io.RawIOBase):
    """The stream within a file or stream, message by message, with a size limit, also after decompression."""

    def __init__(self, source: Readable, name: str) -> None:
        self._source = source
        self._name = name
        head = _exactly(source, _FILE_HEADER_BYTES)
        self._is_file = head.startswith(_MAGIC)
        self._head = b"" if self._is_file else head
        self._pieces: deque[bytes] = deque()
        self._ended = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes. Arrow requests the body of a record batch in one call."""
        assert size is not None
        found = []
        while size > 0 and (self._pieces or self._fill()):
            piece = self._pieces.popleft()
            if len(piece) > size:
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            found.append(piece)
            size -= len(piece)
        return found[0] if len(found) == 1 else b"".join(found)

    def _fill(self) -> bool:
        """Read the next message; return whether there is one."""
        if self._ended:
            return False
        try:
            message = arrow_messages.read(self._exactly)
            if message is None or not message.metadata:
                self._ended = True
                self._pieces.extend([message.head] if message else [])
                return message is not None
            self._check(message.body_bytes, _MESSAGE_BYTES, "")
            body = self._exactly(message.body_bytes)
            if len(body) == message.body_bytes:
                size = arrow_messages.decompressed_bytes(message.metadata, body)
                self._check(size, _DECOMPRESSED_BYTES, ", decompressed")
        except struct.error as error:
            raise source_errors.invalid(
                f"{self._name} is not valid Arrow ({error}). It may be truncated: copy or write it again."
            ) from error
        self._pieces.extend(piece for piece in (message.head, body) if piece)
        return True

    def _check(self, size: int, most: int, how: str) -> None:
        if size > most:
            raise source_errors.invalid(
                f"{self._name} has a record batch of {size >> 20:,} MiB{how}; the limit is {most >> 20:,} MiB."
                " Rewrite it with smaller batches, or as Parquet."
            )

    def _exactly(self, size: int) -> bytes:
        self._check(size, _MESSAGE_BYTES, "")
        head, self._head = self._head[:size], self._head[size:]
        return head + _exactly(self._source, size - len(head))

    def check_end(self) -> None:
        """Reject an Arrow file without its closing magic string."""
        tail = b""
        while chunk := self._source.read(limits.BLOCK_BYTES):
            tail = (tail + chunk)[-len(_MAGIC) :]
        if self._is_file and tail != _MAGIC:
            raise source_errors.invalid(
                f"{self._name} is truncated: the end of the Arrow file is missing. Copy it again."
            )


def _exactly(source: Any, size: int) -> bytes:
    """Read `size` bytes, or all that are left."""
    chunks = []
    while size > 0 and (chunk := source.read(size)):
        chunks.append(chunk)
        size -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
