"""Find the texts with code points that an engine may not see, in one pass over the Arrow buffer."""

# As in spans/kernel.py.
# mypy: disable-error-code="arg-type,assignment"

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.tokenizer.engines.probes import BLOCK, CODES
from services.tokenizer.engines.spans.kernel import compiled, decoded, inlined
from services.tokenizer.sequences import ragged

_Bytes = NDArray[np.uint8]
_Places = NDArray[np.int64]

FREE, REFUSED, UNKNOWN = range(3)
"""Results for a text: only allowed code points; some refused; some not compared yet."""
_STEP = 64
_BLOCKS = 1 << 13
"""Number of blocks of code points that four bytes can express."""


@inlined
def _ascii_until(data: _Bytes, place: int, end: int) -> int:
    """Return where a run of ASCII ends, to a few dozen bytes: many are compared at once."""
    while place + _STEP <= end:
        union = np.uint8(0)
        for step in range(_STEP):
            union |= data[place + step]
        if union >= 0x80:
            break
        place += _STEP
    return place


@compiled
def _scan(data: _Bytes, offsets: _Places, blocks: _Bytes, refused: _Bytes, found: _Bytes, seen: _Bytes) -> None:
    for text in range(len(offsets) - 1):
        place, end = offsets[text], offsets[text + 1]
        while place < end:
            place = _ascii_until(data, place, end)
            stop = min(place + _STEP, end)
            while place < stop:
                if data[place] < 0x80:
                    place += 1
                    continue
                code, size = decoded(data, place)
                place += size
                block = blocks[code >> 8]
                if block == 0:
                    seen[code >> 8] = 1
                    found[text] |= 2
                elif block == 2 and refused[code >> 3] >> (code & np.uint32(7)) & 1:
                    found[text] |= 1
        if found[text] == 3:
            found[text] = 1


@compiled
def _search(data: _Bytes, offsets: _Places, needles: _Bytes, bounds: _Places, heads: _Places, found: _Bytes) -> None:
    for text in range(len(offsets) - 1):
        end = offsets[text + 1]
        for place in range(offsets[text], end):
            byte = data[place]
            for needle in range(heads[byte], heads[byte + 1]):
                length = bounds[needle + 1] - bounds[needle]
                if place + length > end:
                    continue
                step = 1
                while step < length and data[place + step] == needles[bounds[needle] + step]:
                    step += 1
                if step >= length:
                    found[text] = 1
                    break
            if found[text] == 1:
                break


def buffers(texts: pa.Array) -> tuple[_Bytes, _Places]:
    """Return the bytes of large strings, and where each begins and ends."""
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int64, len(texts) + 1, texts.offset * 8)
    return (np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)), places


class CodePointFilter:
    """The code points and texts that an engine may not see."""

    def __init__(self, needles: Sequence[str] = (), longest: int = 1 << 62) -> None:
        """Refuse texts that contain one of the needles, and those longer than the maximum."""
        self._longest = longest
        self._blocks = np.zeros(_BLOCKS, np.uint8)
        self._refused = np.zeros(_BLOCKS * BLOCK // 8, np.uint8)
        written = sorted(needle.encode() for needle in set(needles))
        self._has_needles = bool(written)
        self._needles = np.frombuffer(b"".join(written) or b"\0", np.uint8)
        self._bounds = ragged.offsets_of(np.array([len(needle) for needle in written], np.int64))
        self._heads = np.searchsorted(np.array([needle[0] for needle in written], np.int64), np.arange(257))

    def allow(self, blocks: Iterable[int], refused: Iterable[int]) -> None:
        """Allow the code points of some blocks, except the refused ones."""
        self._blocks[list(blocks)] = 1
        for code in refused:
            self._blocks[code // BLOCK] = 2
            self._refused[code >> 3] |= np.uint8(1 << (code & 7))

    def classify(self, texts: pa.Array) -> tuple[NDArray[np.uint8], list[int]]:
        """Return FREE, REFUSED or UNKNOWN for each text, and the blocks to compare to resolve the unknown ones."""
        data, offsets = buffers(texts)
        found, seen = np.zeros(len(texts), np.uint8), np.zeros(_BLOCKS, np.uint8)
        _scan(data, offsets, self._blocks, self._refused, found, seen)
        if self._has_needles:
            _search(data, offsets, self._needles, self._bounds, self._heads, found)
        found[np.diff(offsets) > self._longest] = REFUSED
        return found, [block for block in np.flatnonzero(seen).tolist() if block < CODES // BLOCK]
