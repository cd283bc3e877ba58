"""A seeded permutation of any size, of which any part can be computed without the rest.

A Feistel network of eight rounds over the smallest even number of bits that holds them all (16 at least), its round
function and keys those of SplitMix64; a result out of range is encrypted again until it is in range ("cycle walking",
Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002). A list of all places is never created.
"""

import numpy as np
from numpy.typing import NDArray

from services.tokenizer.sequences.jit import compiled
from services.tokenizer.sequences.ragged import Offsets

_ROUNDS = 8
_LEAST_BITS = 8
_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_P1, _P2 = np.uint64(_FIRST), np.uint64(_SECOND)
_ONE, _27, _30, _31, _64 = (np.uint64(number) for number in (1, 27, 30, 31, 64))


class Permutation:
    """The shuffled order of `size` rows: the row at a place, and the place of a row."""

    def __init__(self, seed: int, size: int) -> None:
        self._size = np.uint64(size)
        self._bits = np.uint64(max(_LEAST_BITS, -(-max(size - 1, 1).bit_length() // 2)))
        self._keys = np.array([_mixed((seed + place * _STEP) & _MASK) for place in range(1, _ROUNDS + 1)], np.uint64)

    def rows(self, places: Offsets) -> Offsets:
        """Return the rows at these places; both count from 0."""
        return _send(places.astype(np.uint64), self._keys, self._bits, self._size, False)

    def places(self, rows: Offsets) -> Offsets:
        """Return the places of these rows."""
        return _send(rows.astype(np.uint64), self._keys[::-1].copy(), self._bits, self._size, True)


def _mixed(value: int) -> int:
    """Apply the output function of SplitMix64.

    Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators.
    """
    value = (value ^ value >> 30) * _FIRST & _MASK
    value = (value ^ value >> 27) * _SECOND & _MASK
    return value ^ value >> 31


@compiled
def _send(
    values: NDArray[np.uint64], keys: NDArray[np.uint64], bits: np.uint64, size: np.uint64, backward: bool
) -> Offsets:
    mask, high = (_ONE << bits) - _ONE, _64 - bits
    found = np.empty(len(values), np.int64)
    for place in range(len(values)):
        value = values[place]
        while True:
            left, right = value >> bits, value & mask
            if backward:
                left, right = right, left
            for key in keys:
                mixed = right + key
                mixed = (mixed ^ (mixed >> _30)) * _P1
                mixed = (mixed ^ (mixed >> _27)) * _P2
                mixed = (mixed ^ (mixed >> _31)) >> high
                left, right = right, left ^ mixed
            if backward:
                left, right = right, left
            value = (left << bits) | right
            if value < size:
                break
        found[place] = np.int64(value)
    return found
