"""Copy rows from one flat array to another; compiled, because index arrays cost more than the copy itself."""

import numba
import numpy as np
from numpy.typing import NDArray

_IDS = numba.types.Array(numba.int32, 1, "C", readonly=True)
_PLACES = numba.types.Array(numba.int64, 1, "C", readonly=True)


def _copy(
    values: NDArray[np.int32],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    target: NDArray[np.int32],
    places: NDArray[np.int64],
) -> None:
    for row in range(len(lengths)):
        start, place = starts[row], places[row]
        for step in range(lengths[row]):
            target[place + step] = values[start + step]


# Compiled when imported: a cache on disk would need a writable folder, which an installed service may not have.
copy_rows = numba.njit(numba.void(_IDS, _PLACES, _PLACES, numba.int32[::1], _PLACES), nogil=True)(_copy)
"""Copies `values[starts[i]:][:lengths[i]]` to `target[places[i]:]` for every row i."""
