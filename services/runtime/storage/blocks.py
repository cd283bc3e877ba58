"""Memory-mapped files whose bytes are checked when they are used.

The checksum of a whole file does not help where parts of it are read from a mapping: computing it takes the whole file,
and a page may be read from the disk again long after. So such a file has a digest per block, XXH3 of 64 bits
(https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), which is faster than memory, and readers have the
blocks that they use checked first. The digests follow the content, and their sha256 travels in the result of the task
that wrote the file; or they are stored elsewhere, as for an extraction.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from polytok import errors

BLOCK_BYTES = 8192
"""Small, so that documents read in any order cost few bytes beside their own, and large enough to be fast."""
_DIGEST = np.dtype("<u8")

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]
Damaged = Callable[[str], errors.DataLoss]
"""Returns the error for a damaged file, from a description such as "its bytes 0 to 4095 were changed"."""


class Sink(Protocol):
    """A writable object."""

    def write(self, data: memoryview, /) -> object:
        """Write all of the data."""


class Hasher:
    """Computes the digests of the blocks of a byte stream."""

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        self._block_bytes = block_bytes
        self._pending = bytearray()
        self._digests: list[int] = []

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        view = data.cast("B")
        start = min(-len(self._pending) % self._block_bytes, len(view))
        if start:
            self._pending += view[:start]
            if len(self._pending) == self._block_bytes:
                self._digests.append(xxhash.xxh3_64_intdigest(self._pending))
                self._pending.clear()
        stop = len(view) - (len(view) - start) % self._block_bytes
        for place in range(start, stop, self._block_bytes):
            self._digests.append(xxhash.xxh3_64_intdigest(view[place : place + self._block_bytes]))
        self._pending += view[stop:]

    def digests(self) -> bytes:
        """Return the digests, 64-bit little-endian integers; the last block may be shorter."""
        last = [xxhash.xxh3_64_intdigest(self._pending)] if self._pending else []
        return np.array([*self._digests, *last], _DIGEST).tobytes()


class Writer:
    """Writes content, followed by the digests of its blocks."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._hasher = Hasher()

    def write(self, data: memoryview) -> None:
        """Append to the content."""
        self._hasher.update(data)
        self._sink.write(data)

    def finish(self) -> str:
        """Write the digests and return their sha256."""
        digests = self._hasher.digests()
        self._sink.write(memoryview(digests))
        return hashlib.sha256(digests).hexdigest()


class Blocks:
    """The content of a mapped file, which returns only checked bytes."""

    def __init__(
        self,
        content: Bytes,
        digests: Sequence[int],
        damaged: Damaged,
        *,
        block_bytes: int = BLOCK_BYTES,
        once: bool = False,
    ) -> None:
        """With `once`, a block is checked only until it was right. Raise `damaged` for a wrong size."""
        self.content = content
        """The content, unchecked."""
        self._bytes = content.data
        self._digests = digests
        self._damaged = damaged
        self._block_bytes = block_bytes
        self._right = np.zeros(len(self._digests), np.bool_) if once else None
        if len(self._digests) != -(-len(content) // block_bytes):
            raise damaged(f"it has {len(content)} bytes, which is not what was written")

    def read(self, begin: int, end: int) -> Bytes:
        """Return the bytes from `first` to `last`."""
        self._check(range(begin // self._block_bytes, -(-end // self._block_bytes)) if begin < end else ())
        return self.content[begin:end]

    def check(self, begins: Places, ends: Places) -> None:
        """Check several byte ranges, which may be empty."""
        first, behind = begins // self._block_bytes, -(-ends // self._block_bytes)
        counts = np.where(begins < ends, behind - first, 0)
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        blocks = np.unique(np.repeat(first, counts) + within)
        if self._right is not None:
            blocks = blocks[~self._right[blocks]]
        self._check(blocks.tolist())
        if self._right is not None:
            self._right[blocks] = True

    def _check(self, blocks: range | list[int] | tuple[()]) -> None:
        size = self._block_bytes
        for block in blocks:
            if xxhash.xxh3_64_intdigest(self._bytes[block * size : (block + 1) * size]) != self._digests[block]:
                end = min((block + 1) * size, len(self.content))
                raise self._damaged(f"its bytes {block * size} to {end - 1} were changed")


def opened(file: Bytes, sha256: str, damaged: Damaged) -> tuple[Bytes, list[int]]:
    """Split what `Writer` wrote into content and digests, and check the digests."""
    count = -(-len(file) // (BLOCK_BYTES + _DIGEST.itemsize))
    size = max(0, len(file) - count * _DIGEST.itemsize)
    digests = file[size:].tobytes()
    if hashlib.sha256(digests).hexdigest() != sha256:
        raise damaged(f"it has {len(file)} bytes, and the digests in it are damaged")
    return file[:size], np.frombuffer(digests, _DIGEST).tolist()
