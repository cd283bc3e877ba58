"""Sequence packing: rows of exactly max_length tokens, equal to SAELens's `concat_and_batch_sequences`.

SAELens iterates over the documents token by token. Here the documents become one stream, including boundary tokens,
and rows are cut from it: a row that starts at a separator leaves that out, and a row gets the begin-of-batch token in
front unless it starts with it. Rows take equal numbers of tokens but for those two exceptions, so whole runs of row
starts are one arithmetic series, and only the exceptions are handled one by one.

The stream of a whole dataset is the concatenation of its parts. A part can be packed independently given its phase:
the number of its tokens that belong to the last row of the parts before it. `packing_offsets` computes it.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polytok import errors
from services.tokenizer.sequences import base, packing_offsets, ragged
from services.tokenizer.sequences.base import SequenceRows
from services.tokenizer.sequences.ragged import Ids, Offsets, Ragged
from services.tokenizer.sequences.row_copy import copy_rows

_RUN = 4096
"""Number of row starts that are examined in one step."""


class Boundaries(NamedTuple):
    """The tokens that mark boundaries; None for none."""

    begin_of_batch: int | None = None
    begin_of_sequence: int | None = None
    separator: int | None = None


_NONE = Boundaries()


def check_length(max_length: int, boundaries: Boundaries) -> None:
    """Raise if a length leaves no room for a document's token besides the begin-of-batch token."""
    least = 1 if boundaries.begin_of_batch is None else 2
    if max_length < least:
        message = f"max_length is {max_length}; packing with these boundary tokens needs at least {least}."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("parameters.max_length", message)])


class Packer:
    """Concatenates documents and cuts the stream; buffers what does not fill a sequence yet."""

    def __init__(
        self,
        around: base.Frame,
        max_length: int,
        boundaries: Boundaries,
        *,
        separator_opens: bool | None = None,
    ) -> None:
        """With separator_opens, rows record where documents start: at a separator, or after it; None omits this."""
        check_length(max_length, boundaries)
        self.num_truncated = 0
        self._around = around
        self._length = max_length
        self._boundaries = boundaries
        self._stream: Ids = np.empty(0, np.int32)
        self._droppable: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._separator_opens = separator_opens
        self._begins: Offsets = np.empty(0, np.int64)
        self._phase = 0

    def skip(self, phase: int) -> None:
        """Skip a number of tokens of the stream: the rows of earlier documents contain them."""
        self._phase = phase

    def add(self, documents: Ragged) -> Iterator[SequenceRows]:
        """Yield the rows that these documents complete."""
        documents = base.frame(documents, self._around)
        if self._separator_opens is None and self._boundaries == _NONE:
            yield self._add_plain(documents)
            return
        tokens, droppable, separators, begins = stream(documents, self._boundaries)
        skipped = min(self._phase, len(tokens))
        self._phase -= skipped
        tokens, droppable = tokens[skipped:], droppable[skipped:]
        if self._separator_opens is not None:
            begins = (separators if self._separator_opens else begins) - skipped
            self._begins = np.concatenate([self._begins, begins[begins >= 0] + len(self._stream)])
        tokens = np.concatenate([self._stream, tokens])
        droppable = np.concatenate([self._droppable, droppable])
        starts, rest = self._row_starts(tokens, droppable)
        # A copy: a view would keep the whole stream alive.
        self._stream, self._droppable = tokens[rest:].copy(), droppable[rest:].copy()
        rows = self._rows(tokens, starts)
        if self._separator_opens is None:
            yield SequenceRows(rows)
            return
        headed = self._length - self._taken(tokens, starts)
        yield SequenceRows(rows, document_starts=document_starts(self._begins, starts, headed, self._length))
        self._begins = self._begins[np.searchsorted(self._begins, rest) :] - rest

    def _add_plain(self, documents: Ragged) -> SequenceRows:
        """Cut a stream without boundary tokens: a single copy suffices."""
        skipped = min(self._phase, len(documents.values))
        self._phase -= skipped
        tokens = np.concatenate([self._stream, documents.values[skipped:]])
        rest = len(tokens) - len(tokens) % self._length
        self._stream = tokens[rest:].copy()
        return SequenceRows(Ragged(tokens[:rest], np.arange(0, rest + 1, self._length)))

    def complete(self, following: Iterable[Ragged]) -> Iterator[SequenceRows]:
        """Yield the unfinished row, if the following documents fill it, and no further row of them."""
        # The documents are not even read if no row was begun.
        if not len(self._stream):
            return
        for documents in following:
            for rows in self.add(documents):
                if rows.ids.num_rows:
                    yield _first(rows)
                    return

    def advance_offsets(self, documents: Ragged, before: Ids) -> Ids:
        """Return what each phase becomes after these documents, given what it became before (see `packing_offsets`)."""
        if self._boundaries == _NONE:
            return packing_offsets.advance_plain(
                len(documents.values) + documents.num_rows * self._around.length, before
            )
        tokens, droppable, *_ = stream(base.frame(documents, self._around), self._boundaries)
        return packing_offsets.advance(tokens, droppable, self._boundaries.begin_of_batch, before)

    @property
    def length(self) -> int:
        """Number of tokens in a row."""
        return self._length

    def _row_starts(self, tokens: Ids, droppable: NDArray[np.bool_]) -> tuple[Offsets, int]:
        """Return where rows start in the stream, and where the first incomplete one does."""
        begin = self._boundaries.begin_of_batch
        exceptional = droppable if begin is None else droppable | (tokens == begin)
        usual = self._length if begin is None else self._length - 1
        runs: list[Offsets] = []
        position = 0
        while position < len(tokens):
            run = np.arange(position, min(len(tokens), position + usual * _RUN), usual)
            stops = np.flatnonzero(exceptional[run])
            if not len(stops):
                runs.append(run)
                position += len(run) * usual
                continue
            # The exception: its separator is dropped, and it needs no begin-of-batch token if it starts with one.
            start = int(run[stops[0]] + droppable[run[stops[0]]])
            runs += [run[: stops[0]], np.array([start])]
            position = start + (self._length if tokens[start] == begin else usual)
        starts = np.concatenate(runs) if runs else np.empty(0, np.int64)
        return self._complete(tokens, starts)

    def _complete(self, tokens: Ids, starts: Offsets) -> tuple[Offsets, int]:
        ends = starts + self._taken(tokens, starts)
        complete = int(np.searchsorted(ends, len(tokens), side="right"))
        return starts[:complete], int(ends[complete - 1]) if complete else 0

    def _taken(self, tokens: Ids, starts: Offsets) -> Offsets:
        """Return how many tokens of the stream each row takes: all but an inserted begin-of-batch token."""
        taken = np.full(len(starts), self._length)
        if self._boundaries.begin_of_batch is not None:
            taken -= tokens[starts] != self._boundaries.begin_of_batch
        return taken

    def _rows(self, tokens: Ids, starts: Offsets) -> Ragged:
        if not len(starts):
            return ragged.EMPTY
        begin = self._boundaries.begin_of_batch
        taken = self._taken(tokens, starts)
        offsets = ragged.offsets_of(np.full(len(starts), self._length))
        rows = np.empty(int(offsets[-1]), np.int32)
        if begin is not None:
            rows[offsets[:-1]] = begin
        copy_rows(tokens, starts, taken, rows, offsets[1:] - taken)
        return Ragged(rows, offsets)


def _first(rows: SequenceRows) -> SequenceRows:
    starts = None if rows.document_starts is None else _first_row(rows.document_starts)
    return SequenceRows(_first_row(rows.ids), document_starts=starts)


def _first_row(rows: Ragged) -> Ragged:
    return Ragged(rows.values[: rows.offsets[1]], rows.offsets[:2])


def document_starts(begins: Offsets, starts: Offsets, headed: Offsets, length: int) -> Ragged:
    """Return the places in each row at which a document starts; the first is 0.

    `begins` are the places of the stream at which documents start, `starts` those at which rows do, and `headed` marks
    rows with an inserted first token, which belongs to the document that follows it.
    """
    row = np.searchsorted(starts, begins, side="right") - 1
    place = begins - starts[row] + headed[row] if len(starts) else begins
    # Not those before the first row, between two rows (a dropped separator), or at the start of one.
    inner = (row >= 0) & (begins > starts[row]) & (place < length) if len(starts) else np.zeros(len(begins), np.bool_)
    offsets = ragged.offsets_of(1 + np.bincount(row[inner], minlength=len(starts)))
    values = np.zeros(int(offsets[-1]), np.int32)
    is_inner = np.ones(len(values), np.bool_)
    is_inner[offsets[:-1]] = False
    values[is_inner] = place[inner]
    return Ragged(values, offsets)


def stream(documents: Ragged, boundaries: Boundaries) -> tuple[Ids, NDArray[np.bool_], Offsets, Offsets]:
    """Join documents into one stream, and mark the separators in it: they are dropped at the start of a row.

    Also returns where each document starts, with its separator and without.
    """
    documents = _without_empty(documents)
    lengths = documents.lengths
    first = documents.values[documents.offsets[:-1]]
    begun = _missing(first, boundaries.begin_of_sequence)
    if boundaries.begin_of_sequence is not None:
        first = np.where(begun, np.int32(boundaries.begin_of_sequence), first)
    separated = _missing(first, boundaries.separator)
    offsets = ragged.offsets_of(lengths + begun + separated)
    tokens = np.empty(int(offsets[-1]), np.int32)
    droppable = np.zeros(len(tokens), np.bool_)
    droppable[offsets[:-1][separated]] = True
    if boundaries.separator is not None:
        tokens[offsets[:-1][separated]] = boundaries.separator
    if boundaries.begin_of_sequence is not None:
        tokens[(offsets[:-1] + separated)[begun]] = boundaries.begin_of_sequence
    copy_rows(documents.values, documents.offsets[:-1], lengths, tokens, offsets[:-1] + separated + begun)
    return tokens, droppable, offsets[:-1], offsets[:-1] + separated


def _missing(first: Ids, boundary: int | None) -> NDArray[np.bool_]:
    """Return which documents need the boundary token: all but those that begin with it."""
    return np.zeros(len(first), np.bool_) if boundary is None else first != boundary


def _without_empty(documents: Ragged) -> Ragged:
    lengths = documents.lengths
    return Ragged(documents.values, ragged.offsets_of(lengths[lengths > 0]))


class DocumentCutter:
    """Cuts each document by itself and drops what does not fill a sequence: packing without concatenation."""

    def __init__(self, around: base.Frame, max_length: int, boundaries: Boundaries) -> None:
        self.num_truncated = 0
        self._around = around
        self._length = max_length
        # As in SAELens: a sequence that begins a batch by itself begins with the begin-of-batch token.
        self._begin = boundaries.begin_of_sequence
        if self._begin is None:
            self._begin = boundaries.begin_of_batch

    def add(self, documents: Ragged) -> Iterator[SequenceRows]:
        """Yield a row for each document that fills one."""
        documents = _without_empty(base.frame(documents, self._around))
        begun = _missing(documents.values[documents.offsets[:-1]], self._begin)
        lengths = documents.lengths
        fills = lengths + begun >= self._length
        self.num_truncated += int(np.count_nonzero(lengths + begun > self._length))
        starts = documents.offsets[:-1][fills]
        headed = begun[fills].astype(np.int64)
        offsets = ragged.offsets_of(np.full(len(starts), self._length))
        rows = np.empty(int(offsets[-1]), np.int32)
        if self._begin is not None:
            rows[offsets[:-1][begun[fills]]] = self._begin
        kept = self._length - headed
        copy_rows(documents.values, starts, kept, rows, offsets[:-1] + headed)
        yield SequenceRows(Ragged(rows, offsets))
