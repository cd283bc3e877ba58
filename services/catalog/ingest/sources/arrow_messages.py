"""The messages of an Arrow stream, one at a time, with their size after decompression.

Arrow decompresses a record batch as a whole and has no limit for it: a few kilobytes may expand to many gigabytes. The
message itself states the size, so a batch can be rejected before any of it is decompressed.

Layout: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format and, for the metadata,
format/Message.fbs. Only the few FlatBuffers fields that are needed are read.
"""

import struct
from typing import Any, NamedTuple

_CONTINUATION = b"\xff\xff\xff\xff"
_DICTIONARY, _BATCH = 2, 3
"""Values of the union MessageHeader."""
_AS_IT_IS = -1
"""Stored in place of a buffer's length if the buffer is not compressed."""


class Message(NamedTuple):
    """The framing with the metadata, and the body; both are short if the stream is truncated."""

    head: bytes
    metadata: bytes
    body_bytes: int
    """Length of the body according to the metadata."""


class _Table:
    """A FlatBuffers table: fields by their position in the schema."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place
        self._fields = place - _int(data, "<i", place)

    def _at(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > _int(self._data, "<H", self._fields):
            return None
        offset = _int(self._data, "<H", self._fields + entry)
        return self._place + offset if offset else None

    def number(self, field: int, kind: str) -> int:
        """Return a scalar; 0 if it is omitted."""
        place = self._at(field)
        return 0 if place is None else _int(self._data, kind, place)

    def target(self, field: int) -> int | None:
        """Return the position of a field's table or vector; None if it is omitted."""
        place = self._at(field)
        return None if place is None else place + _int(self._data, "<I", place)

    def table(self, field: int) -> "_Table | None":
        """Return a nested table."""
        place = self.target(field)
        return None if place is None else _Table(self._data, place)


def _int(data: bytes, kind: str, place: int) -> int:
    if place < 0:
        raise struct.error("an offset points outside the message")
    return int(struct.unpack_from(kind, data, place)[0])


def read(read_exactly: Any) -> Message | None:
    """Read the head of the next message; return None at the end of the stream.

    `read_exactly(size)` returns `size` bytes, or all that are left. Raise struct.error if this is not Arrow.
    """
    head = read_exactly(4)
    if head == _CONTINUATION:
        head += read_exactly(4)
    size = _int(head[-4:], "<i", 0) if len(head) >= 4 else 0
    if size <= 0:
        # The end, or something that Arrow will reject.
        return Message(head, b"", 0) if head else None
    metadata = read_exactly(size)
    if len(metadata) < size:
        return Message(head + metadata, b"", 0)
    body_bytes = _Table(metadata, _int(metadata, "<I", 0)).number(3, "<q")
    if body_bytes < 0:
        raise struct.error("a body has a negative length")
    return Message(head + metadata, metadata, body_bytes)


def batch_rows(metadata: bytes) -> int:
    """Return the number of rows that a record batch with uncompressed buffers states.

    Raise struct.error for metadata of anything else.
    """
    message = _Table(metadata, _int(metadata, "<I", 0))
    header = message.table(2)
    if message.number(1, "<B") != _BATCH or header is None:
        raise struct.error("it is a message of another kind")
    if header.target(3) is not None:
        raise struct.error("it is compressed")
    rows = header.number(0, "<q")
    if rows < 0:
        raise struct.error("it has a negative length")
    return rows


def decompressed_bytes(metadata: bytes, body: bytes) -> int:
    """Return the decompressed size of the buffers of a record batch or dictionary; 0 for other messages.

    Raise struct.error if the metadata are invalid or point outside the body.
    """
    message = _Table(metadata, _int(metadata, "<I", 0))
    kind, header = message.number(1, "<B"), message.table(2)
    if kind == _DICTIONARY and header is not None:
        header = header.table(1)
    if kind not in {_DICTIONARY, _BATCH} or header is None or header.target(3) is None:
        return 0
    buffers = header.target(2)
    if buffers is None:
        return 0
    count = _int(metadata, "<I", buffers)
    places = struct.iter_unpack("<qq", metadata[buffers + 4 : buffers + 4 + 16 * count])
    return sum(_decompressed(body, offset, length) for offset, length in places if length)


def _decompressed(body: bytes, offset: int, length: int) -> int:
    size = _int(body, "<q", offset)
    return length if size == _AS_IT_IS else max(size, 0)
