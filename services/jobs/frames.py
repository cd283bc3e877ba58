"""Frames between a worker and its task process: four bytes of length, then a serialized protobuf message."""

import asyncio
import struct
from typing import BinaryIO, TypeVar

from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)

_LENGTH = struct.Struct(">I")
MAX_BYTES = 256 << 20
"""A longer frame is not ours: another program wrote to the pipe."""


class BrokenFrame(Exception):
    """Raised when the bytes from the pipe are not a frame."""


def encode(message: Message) -> bytes:
    """Return the frame of a message."""
    data = message.SerializeToString()
    return _LENGTH.pack(len(data)) + data


def read(stream: BinaryIO, kind: type[M]) -> M | None:
    """Read a message; return None once the other side has closed."""
    head = _read_exactly(stream, _LENGTH.size)
    body = None if head is None else _read_exactly(stream, _size(head))
    return None if body is None else _parse(body, kind)


async def receive(stream: asyncio.StreamReader, kind: type[M]) -> M | None:
    """Read a message from an asyncio stream; return None once the other side has closed."""
    try:
        return _parse(await stream.readexactly(_size(await stream.readexactly(_LENGTH.size))), kind)
    except asyncio.IncompleteReadError:
        return None


def _read_exactly(stream: BinaryIO, size: int) -> bytes | None:
    data = stream.read(size)
    return data if data is not None and len(data) == size else None


def _size(head: bytes) -> int:
    (size,) = _LENGTH.unpack(head)
    if size > MAX_BYTES:
        raise BrokenFrame(f"The frame announces {size} bytes; the limit is {MAX_BYTES}.")
    return int(size)


def _parse(data: bytes, kind: type[M]) -> M:
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise BrokenFrame(f"The frame does not contain a {kind.DESCRIPTOR.name}.") from error
    return message
