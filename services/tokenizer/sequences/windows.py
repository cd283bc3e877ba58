"""Overlapping windows of documents: tokens past max_length become further sequences.

Equal, including the order, to the rows of the Hugging Face fast tokenizer with `return_overflowing_tokens=True` and a
stride: truncation on the right yields windows from the start of the document, truncation on the left from its end
backwards.
"""

from collections.abc import Iterator

import numpy as np

from polytok import errors
from services.tokenizer.sequences import base, ragged
from services.tokenizer.sequences.base import SequenceRows
from services.tokenizer.sequences.ragged import Offsets, Ragged
from services.tokenizer.sequences.row_copy import copy_rows

_TOKENS = 1 << 20
"""Maximum number of tokens of windows made at once: a large stride multiplies the text."""


class Windows:
    """One sequence per window; consecutive windows share `stride` tokens, not counting special tokens."""

    def __init__(self, around: base.Frame, max_length: int, stride: int, *, keep_end: bool = False) -> None:
        base.check_room(around, max_length)
        self.num_truncated = 0
        self._around = around
        self._room = max_length - around.length
        self._step = self._room - stride
        self._keep_end = keep_end
        if self._step < 1:
            message = (
                f"stride is {stride}, but max_length leaves {self._room} tokens besides the special ones. Set "
                f"stride below {self._room}, or a larger max_length."
            )
            raise errors.InvalidArgument(message, violations=[errors.FieldViolation("parameters.stride", message)])

    def add(self, documents: Ragged) -> Iterator[SequenceRows]:
        """Yield the windows of every document."""
        lengths = documents.lengths
        past = np.maximum(lengths - self._room, 0)
        self.num_truncated += int(np.count_nonzero(past))
        counts = 1 + -(-past // self._step)
        document = np.repeat(np.arange(len(lengths)), counts)
        place = np.arange(len(document)) - np.repeat(ragged.offsets_of(counts)[:-1], counts)
        at_once = max(1, _TOKENS // max(1, self._room))
        for first in range(0, len(document), at_once):
            chosen = slice(first, first + at_once)
            yield SequenceRows(base.frame(self._windows(documents, document[chosen], place[chosen]), self._around))

    def _windows(self, documents: Ragged, document: Offsets, place: Offsets) -> Ragged:
        begins, ends = documents.offsets[:-1][document], documents.offsets[1:][document]
        if self._keep_end:
            ends = ends - place * self._step
            begins = np.maximum(begins, ends - self._room)
        else:
            begins = begins + place * self._step
            ends = np.minimum(ends, begins + self._room)
        lengths = ends - begins
        offsets = ragged.offsets_of(lengths)
        values = np.empty(int(offsets[-1]), np.int32)
        copy_rows(documents.values, begins, lengths, values, offsets[:-1])
        return Ragged(values, offsets)
