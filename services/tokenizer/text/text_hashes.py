"""Hash texts in place in an Arrow array: 128 bits each, XXH64 with two seeds.

After the specification of xxHash (Collet, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, XXH64).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.tokenizer.sequences.jit import compiled, inlined
from services.tokenizer.sequences.ragged import Offsets

Hashes = NDArray[np.uint64]

SEEDS = (0, 0x9E3779B97F4A7C15)
"""The seeds of the first and of the second half."""

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(prime)
    for prime in (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
)
_ZERO, _29, _32, _33, _64 = (np.uint64(number) for number in (0, 29, 32, 33, 64))


def hash_texts(texts: pa.LargeStringArray) -> tuple[Hashes, Hashes]:
    """Return both halves of the hash of the UTF-8 bytes of every text (large strings without nulls)."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    first, second = (np.empty(len(texts), np.uint64) for _ in SEEDS)
    for half, seed in ((first, SEEDS[0]), (second, SEEDS[1])):
        _hash_all(content, ends, np.uint64(seed), half)
    return first, second


def find_repeated_rows(parts: Sequence[tuple[Hashes, Hashes, Offsets]]) -> Offsets:
    """Return in order the rows whose hash occurs in an earlier row, given both halves of the hashes, and the rows."""
    if not parts:
        return np.empty(0, np.int64)
    high, low, rows = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((rows, low, high))
    high, low = high[order], low[order]
    again = np.flatnonzero((high[1:] == high[:-1]) & (low[1:] == low[:-1])) + 1
    return np.sort(rows[order[again]])


@inlined
def _rotated(value: np.uint64, bits: int) -> np.uint64:
    shift = np.uint64(bits)
    return (value << shift) | (value >> (_64 - shift))


@inlined
def _read(data: NDArray[np.uint8], place: int, size: int) -> np.uint64:
    value = _ZERO
    for byte in range(size):
        value |= np.uint64(data[place + byte]) << np.uint64(8 * byte)
    return value


@inlined
def _taken(lane: np.uint64, taken: np.uint64) -> np.uint64:
    return _rotated(lane + taken * _P2, 31) * _P1


@inlined
def _merged(whole: np.uint64, lane: np.uint64) -> np.uint64:
    return (whole ^ _taken(_ZERO, lane)) * _P1 + _P4


@inlined
def _stripes(data: NDArray[np.uint8], place: int, count: int, seed: np.uint64) -> np.uint64:
    a, b, c, d = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
    for _ in range(count):
        a = _taken(a, _read(data, place, 8))
        b = _taken(b, _read(data, place + 8, 8))
        c = _taken(c, _read(data, place + 16, 8))
        d = _taken(d, _read(data, place + 24, 8))
        place += 32
    whole = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
    return _merged(_merged(_merged(_merged(whole, a), b), c), d)


@inlined
def _rest(data: NDArray[np.uint8], place: int, end: int, whole: np.uint64) -> np.uint64:
    while place + 8 <= end:
        whole = _rotated(whole ^ _taken(_ZERO, _read(data, place, 8)), 27) * _P1 + _P4
        place += 8
    if place + 4 <= end:
        whole = _rotated(whole ^ (_read(data, place, 4) * _P1), 23) * _P2 + _P3
        place += 4
    while place < end:
        whole = _rotated(whole ^ (np.uint64(data[place]) * _P5), 11) * _P1
        place += 1
    return whole


@compiled
def _hash_all(data: NDArray[np.uint8], ends: Offsets, seed: np.uint64, found: Hashes) -> None:
    for row in range(len(found)):
        place, end = ends[row], ends[row + 1]
        size = end - place
        count = size // 32
        whole = _stripes(data, place, count, seed) if count else seed + _P5
        whole = _rest(data, place + 32 * count, end, whole + np.uint64(size))
        whole = (whole ^ (whole >> _33)) * _P2
        whole = (whole ^ (whole >> _29)) * _P3
        found[row] = whole ^ (whole >> _32)
