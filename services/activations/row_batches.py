"""Batches of rows of about equal length, so that there is little padding."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.activations.rows import Ragged, TokenRows

_READ_ROWS = 1024


class Window(NamedTuple):
    """Rows that are sorted together."""

    first_row: int
    rows: Ragged


def windows(rows: TokenRows, first_row: int, end: int, batch_tokens: int, window_tokens: int) -> Iterator[Window]:
    """Split rows into windows; where a window ends depends only on where it begins and on the rows after that.

    So a stream that starts at the beginning of a window yields the very batches that another one yielded from there.
    Rows of one length are batched in order; otherwise a window has enough rows to choose from.
    """
    ahead = _Ahead(rows, first_row, end)
    while len(lengths := ahead.lengths(1)):
        alike = max(1, batch_tokens // max(1, int(lengths[0])))
        lengths = ahead.lengths(alike)
        if (lengths[:alike] == lengths[0]).all():
            count = min(alike, len(lengths))
        else:
            count = ahead.count(max(window_tokens, batch_tokens))
        yield ahead.take(count)


def batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of a window's rows by batch, longest first, so that insufficient memory shows at once.

    A batch has at most `batch_tokens` tokens, including padding, and at least one row; rows without tokens are in
    none.
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    first = 0
    while first < len(order):
        rows = max(1, batch_tokens // int(lengths[order[first]]))
        yield order[first : first + rows]
        first += rows


class _Ahead:
    """Rows that were read and not yet taken."""

    def __init__(self, rows: TokenRows, first_row: int, end: int) -> None:
        self._rows = rows
        self._first_row = first_row
        self._read = first_row
        self._end = end
        self._values: NDArray[np.int64] = np.empty(0, np.int64)
        self._lengths: NDArray[np.int64] = np.empty(0, np.int64)

    def lengths(self, count: int) -> NDArray[np.int64]:
        """Return the lengths of at least `count` next rows, or fewer at the end."""
        while len(self._lengths) < count and self._read < self._end:
            more = self._rows.read(self._read, min(max(_READ_ROWS, count), self._end - self._read))
            self._read += len(more.lengths)
            self._values = np.concatenate([self._values, more.values])
            self._lengths = np.concatenate([self._lengths, more.lengths])
        return self._lengths

    def count(self, tokens: int) -> int:
        """Return how many of the next rows have together this many tokens: at least one."""
        count = _READ_ROWS
        while True:
            sums = np.cumsum(self.lengths(count))
            if sums[-1] >= tokens or len(sums) < count:
                return max(1, int(np.searchsorted(sums, tokens, side="right")))
            count *= 2

    def take(self, count: int) -> Window:
        """Take the next rows."""
        num_values = int(self._lengths[:count].sum())
        taken = Window(self._first_row, Ragged(self._values[:num_values], self._lengths[:count]))
        self._values, self._lengths = self._values[num_values:], self._lengths[count:]
        self._first_row += count
        return taken
