"""The engine: lays out texts, scans them in threads, encodes missing spans in between, and assembles rows."""

import concurrent.futures
import itertools
import os
import threading
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray

from services.tokenizer.engines import reference
from services.tokenizer.engines.spans import kernel, scatter
from services.tokenizer.engines.spans.cuts import Cuts
from services.tokenizer.engines.spans.span_table import MissingSpans, SpanTable
from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.ragged import Ragged

_SHARE_BYTES = 64 << 10
"""Minimum number of bytes that are worth a thread."""
_OUT = 1 << 20
"""Maximum number of ids that are written at a time."""
_MOST_MISSING = 1 << 15
_MOST_MISSING_BYTES = 1 << 20
"""Maximum number of bytes that a thread leaves to be encoded at a time: encoding needs over a
hundred times as much memory.
"""


class SpanEngine:
    """Cuts texts where no token can span, and encodes each span once."""

    name = "spans"

    def __init__(self, backend: tokenizers.Tokenizer, cuts: Cuts) -> None:
        self._reference = reference.Reference(backend)
        self._cuts = cuts
        self._needles = _Needles(cuts)
        self._table = SpanTable(self._encoded)
        self._lock = threading.Lock()
        self._threads = int(os.environ.get("RAYON_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, "spans")

    def encode(self, texts: pa.Array) -> Ragged:
        """Return the ids of each text."""
        if not len(texts):
            return ragged.EMPTY
        with self._lock:
            parts = [_Part(self._cuts, *share) for share in _shares(texts, self._threads)]
            self._each(parts, lambda part: part.lay_out(self._cuts, self._needles))
            going = parts
            while going:
                self._each(going, lambda part: part.scan(self._cuts, self._table))
                found = self._table.resolve([part.missing() for part in going])
                for part, bases in zip(going, found, strict=True):
                    part.collect(self._table, bases)
                going = [part for part in going if not part.done]
        apart = np.concatenate([part.apart for part in parts])
        rows = ragged.concatenate([part.rows() for part in parts])
        return self._with_reference(rows, texts, apart) if apart.any() else rows

    def _encoded(self, missing: MissingSpans) -> Ragged:
        too_long = missing.lengths > self._cuts.merge_most
        if self._cuts.merge is None or too_long.all():
            return self._cuts.encode(missing.strings(np.ones(len(too_long), np.bool_)))
        rows = self._cuts.merge(missing.text, missing.starts, missing.lengths)
        if not too_long.any():
            return rows
        kept = Ragged(rows.values, np.concatenate([[0], rows.offsets[1:][~too_long]]))
        return ragged.interleave(kept, self._cuts.encode(missing.strings(too_long)), too_long)

    def _each(self, parts: list["_Part"], work: Callable[["_Part"], None]) -> None:
        if len(parts) == 1:
            work(parts[0])
        else:
            list(self._pool.map(work, parts))

    def _with_reference(self, rows: Ragged, texts: pa.Array, apart: NDArray[np.bool_]) -> Ragged:
        kept = Ragged(rows.values, np.concatenate([[0], rows.offsets[1:][~apart]]))
        return ragged.interleave(kept, self._reference.encode(texts.filter(pa.array(apart))), apart)


class _Needles:
    """The texts of added tokens, as the kernel reads them."""

    def __init__(self, cuts: Cuts) -> None:
        needles = sorted(set(cuts.needles))
        self.text = np.frombuffer(b"".join(needles) or b"\0", np.uint8)
        self.bounds = ragged.offsets_of(np.array([len(needle) for needle in needles], np.int64))
        self.heads = np.searchsorted(np.array([needle[0] for needle in needles], np.int64), np.arange(257))


class _Part:
    """The texts of one thread: how far they are scanned, and the ids found."""

    def __init__(self, cuts: Cuts, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self._data, self._offsets = data, offsets
        number, size = len(offsets) - 1, int(offsets[-1] - offsets[0])
        # Each text may get a prepended space.
        self._words = np.empty((size + number + kernel.PADDING + 7) // 8, np.uint64)
        self._text = self._words.view(np.uint8)
        self._ends = np.empty(number, np.int64)
        self.apart = np.empty(number, np.bool_)
        self._state = np.zeros(4, np.int64)
        self._out = np.empty(min(size + number, _OUT) + kernel.ROOM + kernel.INLINE, np.int32)
        self._finished = np.empty((number, 2), np.int64)
        self._missing = np.empty(3 * min(size + number, _MOST_MISSING) + 3, np.int64)
        self._row_ends = np.empty(number, np.int64)
        self._collected: list[NDArray[np.int32]] = []
        self._collected_ids = 0

    @property
    def done(self) -> bool:
        """Whether all texts were scanned."""
        return int(self._state[0]) == len(self._ends)

    def lay_out(self, cuts: Cuts, needles: _Needles) -> None:
        """Copy the texts."""
        kernel.lay_out(
            self._data,
            self._offsets,
            cuts.prefix,
            needles.text,
            needles.bounds,
            needles.heads,
            self._text,
            self._ends,
            self.apart,
        )

    def scan(self, cuts: Cuts, table: SpanTable) -> None:
        """Continue until the end, or until many spans are missing."""
        self._first = int(self._state[0])
        kernel.scan(
            self._text,
            self._words,
            self._ends,
            self._state,
            cuts.classes.left,
            cuts.classes.right,
            cuts.classes.pairs,
            cuts.classes.ascii_pairs,
            cuts.blank,
            table.slots,
            table.keys,
            table.ids,
            self._out,
            self._finished.reshape(-1),
            self._missing,
            _MOST_MISSING_BYTES,
        )

    def missing(self) -> MissingSpans:
        """Return the spans that the scan did not find."""
        return MissingSpans(self._words, self._missing[: 3 * int(self._state[3])])

    def collect(self, table: SpanTable, bases: NDArray[np.int64]) -> None:
        """Append the scan's ids, and those of the missing spans, whose slots are given."""
        number = int(self._state[2])
        before = table.counts(bases)
        whole = np.empty(number + int(before[-1]), np.int32)
        scatter.splice(self._out, number, self._missing, bases, table.slots, table.ids, before, whole)
        finished = slice(self._first, int(self._state[0]))
        found, missed = self._finished[finished].T
        self._row_ends[finished] = self._collected_ids + found + before[missed]
        self._collected.append(whole)
        self._collected_ids += len(whole)

    def rows(self) -> Ragged:
        """Return the ids of all texts."""
        return Ragged(np.concatenate(self._collected), np.concatenate([[0], self._row_ends]))


def _offsets(texts: pa.Array) -> NDArray[np.int64]:
    return np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]


def _shares(texts: pa.Array, threads: int) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Divide texts into one part per thread, of about the same number of bytes."""
    offsets = _offsets(texts)
    data = np.frombuffer(texts.buffers()[2] or b"\0", np.uint8)
    size = int(offsets[-1] - offsets[0])
    number = max(1, min(threads, len(texts), size // _SHARE_BYTES))
    wanted = offsets[0] + size * np.arange(1, number) // number
    places = np.unique([0, *np.searchsorted(offsets, wanted), len(texts)]).tolist()
    return [(data, offsets[start : stop + 1]) for start, stop in itertools.pairwise(places)]
