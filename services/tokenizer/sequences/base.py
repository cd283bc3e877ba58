"""One sequence per document: truncated to max_length, with special tokens before and after.

Equal to the Hugging Face fast tokenizer with `truncation=True`: it cuts the text's own tokens so that they and the
special tokens fit, then puts the special tokens around them.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from polytok import errors
from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.ragged import Ids, Ragged
from services.tokenizer.sequences.row_copy import copy_rows


class Frame(NamedTuple):
    """The special tokens that a tokenizer puts around each document."""

    prefix: Ids
    suffix: Ids

    @property
    def length(self) -> int:
        """Number of special tokens."""
        return len(self.prefix) + len(self.suffix)


NO_FRAME = Frame(np.empty(0, np.int32), np.empty(0, np.int32))
"""No special tokens."""


class SequenceRows(NamedTuple):
    """Sequences, as they are written."""

    ids: Ragged
    """The token ids of each."""
    mask: NDArray[np.int8] | None = None
    """1 for each token and 0 for padding, flat as the ids; None without padding."""
    document_starts: Ragged | None = None
    """Where in each sequence a document starts; None if not requested."""


class Sequencer(Protocol):
    """Builds sequences from documents; may buffer what does not fill a sequence yet."""

    num_truncated: int
    """Number of documents that were cut at max_length."""

    def add(self, documents: Ragged) -> Iterator[SequenceRows]:
        """Add documents and yield the complete sequences, a bounded number at a time."""


def frame(documents: Ragged, around: Frame) -> Ragged:
    """Put special tokens around every document."""
    if not around.length:
        return documents
    lengths = documents.lengths
    offsets = ragged.offsets_of(lengths + around.length)
    values = np.empty(int(offsets[-1]), np.int32)
    copy_rows(documents.values, documents.offsets[:-1], lengths, values, offsets[:-1] + len(around.prefix))
    for place, token in enumerate(around.prefix):
        values[offsets[:-1] + place] = token
    for place, token in enumerate(reversed(around.suffix), start=1):
        values[offsets[1:] - place] = token
    return Ragged(values, offsets)


def check_room(around: Frame, max_length: int) -> None:
    """Raise if max_length has no room for a token besides the special ones."""
    if max_length < around.length:
        message = (
            f"max_length is {max_length}, but the tokenizer adds {around.length} special tokens to each "
            f"document. Set max_length above {around.length}, or add_special_tokens to false."
        )
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("parameters.max_length", message)])


class WholeDocuments:
    """One sequence per document; longer ones keep their start or end, or are not cut (max_length None)."""

    def __init__(self, around: Frame, max_length: int | None, *, keep_end: bool = False) -> None:
        if max_length is not None:
            check_room(around, max_length)
        self.num_truncated = 0
        self._around = around
        self._room = None if max_length is None else max_length - around.length
        self._keep_end = keep_end

    def add(self, documents: Ragged) -> Iterator[SequenceRows]:
        """Yield one sequence for every document."""
        yield SequenceRows(frame(self._cut(documents), self._around))

    def _cut(self, documents: Ragged) -> Ragged:
        lengths = documents.lengths
        if self._room is None or not (too_long := lengths > self._room).any():
            return documents
        self.num_truncated += int(np.count_nonzero(too_long))
        kept = np.minimum(lengths, self._room)
        starts = documents.offsets[1:] - kept if self._keep_end else documents.offsets[:-1]
        offsets = ragged.offsets_of(kept)
        values = np.empty(int(offsets[-1]), np.int32)
        copy_rows(documents.values, starts, kept, values, offsets[:-1])
        return Ragged(values, offsets)
