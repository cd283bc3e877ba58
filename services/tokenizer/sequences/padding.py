"""Pad sequences with a padding token; the attention mask marks padding."""

import tempfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.base import SequenceRows
from services.tokenizer.sequences.ragged import Offsets, Ragged
from services.tokenizer.sequences.row_copy import copy_rows

_TOKENS = 1 << 20
"""Maximum number of tokens made at once: padding multiplies the size of short sequences."""


class Filling(NamedTuple):
    """The padding token and its side."""

    token: int
    """The id of the padding token."""
    left: bool
    """Whether padding goes before the sequence instead of after it."""


class Padder(Protocol):
    """Pads sequences; may buffer them until it knows the target length."""

    num_padded: int
    """Number of padding tokens added."""

    def add(self, rows: SequenceRows) -> Iterator[SequenceRows]:
        """Add sequences and yield those that are ready."""

    def finish(self) -> Iterator[SequenceRows]:
        """Yield the buffered sequences."""

    def close(self) -> None:
        """Release the buffers."""


def pad(ids: Ragged, length: int, filling: Filling) -> SequenceRows:
    """Return sequences padded to at least that length."""
    lengths = ids.lengths
    missing = np.maximum(length - lengths, 0)
    offsets = ragged.offsets_of(lengths + missing)
    values = np.full(int(offsets[-1]), filling.token, np.int32)
    copy_rows(ids.values, ids.offsets[:-1], lengths, values, offsets[:-1] + (missing if filling.left else 0))
    runs = [(0, missing), (1, lengths)] if filling.left else [(1, lengths), (0, missing)]
    marks = np.tile(np.array([mark for mark, _ in runs], np.int8), len(lengths))
    mask = np.repeat(marks, np.stack([run for _, run in runs], axis=1).ravel())
    return SequenceRows(Ragged(values, offsets), mask)


class NoPadding:
    """Leaves sequences unchanged."""

    num_padded = 0

    def add(self, rows: SequenceRows) -> Iterator[SequenceRows]:
        """Yield the sequences unchanged."""
        yield rows

    def finish(self) -> Iterator[SequenceRows]:
        """Nothing is buffered."""
        return iter(())

    def close(self) -> None:
        """Nothing is buffered."""


class PadToLength:
    """Pads to a given length; longer sequences are unchanged."""

    def __init__(self, length: int, filling: Filling) -> None:
        self.num_padded = 0
        self._length = length
        self._filling = filling

    def add(self, rows: SequenceRows) -> Iterator[SequenceRows]:
        """Yield the padded sequences in bounded batches."""
        ids = rows.ids
        at_once = max(1, _TOKENS // self._length)
        for first in range(0, ids.num_rows, at_once):
            offsets = ids.offsets[first : first + at_once + 1]
            padded = pad(
                Ragged(ids.values[offsets[0] : offsets[-1]], offsets - offsets[0]), self._length, self._filling
            )
            self.num_padded += len(padded.ids.values) - int(offsets[-1] - offsets[0])
            yield padded

    def finish(self) -> Iterator[SequenceRows]:
        """Nothing is buffered."""
        return iter(())

    def close(self) -> None:
        """Nothing is buffered."""


class PadToLongest:
    """Pads to the longest sequence; until that is known, sequences are buffered in a temporary file."""

    def __init__(self, filling: Filling) -> None:
        self.num_padded = 0
        self._filling = filling
        # With overlapping windows, a shard's ids may be many times its text.
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._lengths: list[Offsets] = []

    def add(self, rows: SequenceRows) -> Iterator[SequenceRows]:
        """Buffer the sequences."""
        self._lengths.append(rows.ids.lengths)
        self._spool.write(np.ascontiguousarray(rows.ids.values).data)
        return iter(())

    def finish(self) -> Iterator[SequenceRows]:
        """Yield all of them, padded."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, np.int64)
        longest = PadToLength(max(1, int(lengths.max(initial=0))), self._filling)
        at_once = max(1, _TOKENS // max(1, int(lengths.max(initial=0))))
        self._spool.seek(0)
        for first in range(0, len(lengths), at_once):
            offsets = ragged.offsets_of(lengths[first : first + at_once])
            values = np.frombuffer(self._spool.read(4 * int(offsets[-1])), np.int32)
            yield from longest.add(SequenceRows(Ragged(values, offsets)))
        self.num_padded = longest.num_padded

    def close(self) -> None:
        """Remove the temporary file."""
        self._spool.close()
