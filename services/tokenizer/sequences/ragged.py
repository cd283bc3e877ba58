"""Rows of different lengths as two flat arrays, in Arrow's layout.

All processing after the engine is arithmetic over these.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.tokenizer.sequences.row_copy import copy_rows

Ids = NDArray[np.int32]
Offsets = NDArray[np.int64]


class Ragged(NamedTuple):
    """Row `i` is `values[offsets[i]:offsets[i + 1]]`."""

    values: Ids
    offsets: Offsets

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Offsets:
        """Length of each row."""
        return np.diff(self.offsets)


EMPTY = Ragged(np.empty(0, np.int32), np.zeros(1, np.int64))
"""No rows."""


def offsets_of(lengths: NDArray[np.integer]) -> Offsets:
    """Return the offsets of rows of the given lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def interleave(first: Ragged, second: Ragged, is_second: NDArray[np.bool_]) -> Ragged:
    """Interleave the rows of both: a row of the second where `is_second`, otherwise one of the first."""
    lengths = np.empty(len(is_second), np.int64)
    lengths[~is_second], lengths[is_second] = first.lengths, second.lengths
    offsets = offsets_of(lengths)
    values = np.empty(int(offsets[-1]), np.int32)
    for part, places in ((first, offsets[:-1][~is_second]), (second, offsets[:-1][is_second])):
        copy_rows(part.values, part.offsets[:-1], part.lengths, values, places)
    return Ragged(values, offsets)


def concatenate(parts: list[Ragged]) -> Ragged:
    """Return the rows of all parts."""
    if not parts:
        return EMPTY
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), offsets_of(lengths))
