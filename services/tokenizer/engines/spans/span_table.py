"""The table of spans and their ids: grows on demand up to a bound, and is emptied when full."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.tokenizer.engines.spans import kernel, scatter
from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.ragged import Ragged

_Scalar = TypeVar("_Scalar", bound=np.generic)

MOST_SPANS = 700_000
"""At most three quarters of 2^20 slots are used, which takes 32 MiB."""
MOST_BYTES = 32 << 20
"""Maximum size of the long spans, and of the ids of spans that have many."""
_FIRST_SLOTS = 1 << 15


class MissingSpans(NamedTuple):
    """The spans of some texts that were not found."""

    words: NDArray[np.uint64]
    """The texts."""
    spans: NDArray[np.int64]
    """Start, length and number of preceding ids of each span."""

    @property
    def text(self) -> NDArray[np.uint8]:
        """The bytes that spans refer to."""
        return self.words.view(np.uint8)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each span begins."""
        return self.spans[0::3]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of bytes of each span."""
        return self.spans[1::3]

    def strings(self, which: NDArray[np.bool_]) -> list[str]:
        """Return some of the spans as strings."""
        text, starts, lengths = self.text.data, self.starts[which], self.lengths[which]
        ends = (starts + lengths).tolist()
        return [str(text[start:end], "utf-8") for start, end in zip(starts.tolist(), ends, strict=True)]


class SpanTable:
    """Encoded spans. A call of `resolve` may move or remove what the previous call found."""

    def __init__(self, encode: Callable[[MissingSpans], Ragged]) -> None:
        """`encode` returns the ids of spans."""
        self._encode = encode
        self._clear()

    def _clear(self) -> None:
        self.slots: NDArray[np.uint64] = np.zeros(_FIRST_SLOTS * kernel.SLOT, np.uint64)
        self.keys: NDArray[np.uint64] = np.empty(1 << 12, np.uint64)
        self.ids: NDArray[np.int32] = np.empty(1 << 14, np.int32)
        self._spans = self._keys_used = self._ids_used = 0

    def resolve(self, parts: list[MissingSpans]) -> list[NDArray[np.int64]]:
        """Encode what is not in the table yet; return the slots of the spans of each part."""
        try:
            return self._resolve(parts)
        except BaseException:
            # Slots without ids must not stay.
            self._clear()
            raise

    def _resolve(self, parts: list[MissingSpans]) -> list[NDArray[np.int64]]:
        self._reserve(sum(len(part.spans) // 3 for part in parts), sum(int(part.spans[1::3].sum()) for part in parts))
        bases, fresh, rows = [], [], []
        for part in parts:
            number = len(part.spans) // 3
            places, numbers = np.empty(number, np.int64), np.empty(number, np.int64)
            new, self._keys_used = kernel.insert(
                part.words, part.spans, self.slots, self.keys, self._keys_used, places, numbers
            )
            self._spans += new
            bases.append(places)
            if new:
                fresh.append(places[numbers[:new]])
                rows.append(
                    self._encode(MissingSpans(part.words, part.spans.reshape(-1, 3)[numbers[:new]].reshape(-1)))
                )
        for places, found in zip(fresh, rows, strict=True):
            self.ids = _grown(self.ids, self._ids_used, len(found.values))
            self._ids_used = scatter.settle(self.slots, places, found.values, found.offsets, self.ids, self._ids_used)
        return bases

    def counts(self, bases: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of ids before each span, and in all."""
        return ragged.offsets_of((self.slots[bases + 2] & np.uint64(0xFFFFFFFF)).astype(np.int64))

    def _reserve(self, spans: int, size: int) -> None:
        """Make room for a number of spans with a total number of bytes."""
        if self._spans + spans > MOST_SPANS or 8 * self._keys_used > MOST_BYTES or 4 * self._ids_used > MOST_BYTES:
            self._clear()
        self.keys = _grown(self.keys, self._keys_used, 2 * spans + size // 8)
        number = len(self.slots) // kernel.SLOT
        while 4 * (self._spans + spans) > 3 * number:
            number *= 2
        if number * kernel.SLOT > len(self.slots):
            slots = np.zeros(number * kernel.SLOT, np.uint64)
            kernel.rehash(self.slots, slots)
            self.slots = slots


def _grown(array: NDArray[_Scalar], used: int, more: int) -> NDArray[_Scalar]:
    if used + more <= len(array):
        return array
    grown = np.empty(max(2 * len(array), used + more), array.dtype)
    grown[:used] = array[:used]
    return grown
