"""The table of spans and their ids: grows as it is needed up to a bound, and is emptied when it is full."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.tokenizer.engines.spans import kernel
from services.tokenizer.rows import ragged
from services.tokenizer.rows.ragged import Ragged

_Scalar = TypeVar("_Scalar", bound=np.generic)

MOST_SPANS = 700_000
"""Three quarters of 2^20 slots are taken at most, which makes 32 MiB."""
MOST_BYTES = 32 << 20
"""What the long spans may take, and the ids of those that have many."""
_FIRST_SLOTS = 1 << 15


class Missing(NamedTuple):
    """The spans of some texts that were not found."""

    words: NDArray[np.uint64]
    """The texts."""
    spans: NDArray[np.int64]
    """Start, length and number of ids before it, for each span."""


class Table:
    """Spans that were encoded. A new call of `resolve` may move or remove what the one before it found."""

    def __init__(self, encode: Callable[[list[str]], Ragged]) -> None:
        self._encode = encode
        self._clear()

    def _clear(self) -> None:
        self.slots: NDArray[np.uint64] = np.zeros(_FIRST_SLOTS * kernel.SLOT, np.uint64)
        self.keys: NDArray[np.uint64] = np.empty(1 << 12, np.uint64)
        self.ids: NDArray[np.int32] = np.empty(1 << 14, np.int32)
        self._spans = self._keys_used = self._ids_used = 0

    def resolve(self, parts: list[Missing]) -> list[NDArray[np.int64]]:
        """Encodes what is not in the table yet; returns for each part the slots of its spans."""
        try:
            return self._resolve(parts)
        except BaseException:
            # Slots without their ids must not stay.
            self._clear()
            raise

    def _resolve(self, parts: list[Missing]) -> list[NDArray[np.int64]]:
        self._reserve(sum(len(part.spans) // 3 for part in parts), sum(int(part.spans[1::3].sum()) for part in parts))
        bases, fresh, spans = [], [], []
        for part in parts:
            number = len(part.spans) // 3
            places, numbers = np.empty(number, np.int64), np.empty(number, np.int64)
            new, self._keys_used = kernel.insert(
                part.words, part.spans, self.slots, self.keys, self._keys_used, places, numbers
            )
            self._spans += new
            bases.append(places)
            fresh.append(places[numbers[:new]])
            spans += _strings(part, numbers[:new])
        if spans:
            rows = self._encode(spans)
            self.ids = _grown(self.ids, self._ids_used, len(rows.values))
            self._ids_used = kernel.settle(
                self.slots, np.concatenate(fresh), rows.values, rows.offsets, self.ids, self._ids_used
            )
        return bases

    def counts(self, bases: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns how many ids there are before each span, and in all."""
        return ragged.offsets_of((self.slots[bases + 2] & np.uint64(0xFFFFFFFF)).astype(np.int64))

    def _reserve(self, spans: int, size: int) -> None:
        """Makes room for so many spans of so many bytes together."""
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


def _strings(part: Missing, numbers: NDArray[np.int64]) -> list[str]:
    text = part.words.data.cast("B")
    starts, lengths = part.spans[0::3][numbers], part.spans[1::3][numbers]
    return [
        str(text[start:end], "utf-8") for start, end in zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    ]


def _grown(array: NDArray[_Scalar], used: int, more: int) -> NDArray[_Scalar]:
    if used + more <= len(array):
        return array
    grown = np.empty(max(2 * len(array), used + more), array.dtype)
    grown[:used] = array[:used]
    return grown
