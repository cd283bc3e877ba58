"""Compiled BPE for single spans: how SentencePiece BPE encodes a span that was not seen before.

The reference makes a symbol of each character, or one of each of its bytes if the vocabulary has no such piece, and
joins the neighbours whose merge has the lowest rank, the leftmost of these first, until no neighbours have a merge. It
keeps a heap of merges, which pays off for long words; a span has few symbols, among which a search for the lowest rank
is faster.
"""

# As in kernel.py.
# mypy: disable-error-code="arg-type,assignment,no-any-return,return-value"

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.tokenizer.engines.spans import cuts
from services.tokenizer.engines.spans.kernel import compiled, decoded, inlined
from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.ragged import Ragged

MOST_BYTES = 192
"""The reference encodes longer spans: the time grows with the square of the length."""

_Bytes = NDArray[np.uint8]
_Words = NDArray[np.uint64]
_Ids = NDArray[np.int32]
_Places = NDArray[np.int64]

_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NO_PAIR = np.uint64(0xFFFFFFFFFFFFFFFF)
"""Neither a key nor a value of a table of pairs, and greater than all of them."""


@dataclass(frozen=True)
class Merges:
    """A model's vocabulary and merges, as the kernel reads them."""

    characters: NDArray[np.int32]
    """The id of the piece of each code point, or -1."""
    bytes: NDArray[np.int32]
    """The id of the piece of each byte, or -1 for an ASCII character that has a piece itself."""
    pairs: NDArray[np.uint64]
    """Slots of two words, with open addressing: the ids of two neighbours; rank and id of their merge."""

    @classmethod
    def of(cls, vocab: Mapping[str, int], merges: Sequence[Sequence[str]], alike: str) -> "Merges | None":
        """Read them; the characters of `alike` are equivalent. Returns None if the first of these has no piece."""
        if alike[0] not in vocab:
            return None
        characters = np.full(cuts.CODES, -1, np.int32)
        for piece, number in vocab.items():
            if len(piece) == 1:
                characters[ord(piece)] = number
        for character in alike:
            characters[ord(character)] = vocab[alike[0]]
        singles = np.array([vocab.get(f"<0x{byte:02X}>", -1) for byte in range(256)], np.int32)
        # Of a duplicated merge, the last one counts.
        ranks = {(vocab[first], vocab[second]): rank for rank, (first, second) in enumerate(merges)}
        made = [vocab[merges[rank][0] + merges[rank][1]] for rank in ranks.values()]
        parts = np.array(list(ranks), np.uint64).reshape(-1, 2)
        keys = (parts[:, 0] << np.uint64(32)) | parts[:, 1]
        values = (np.array(list(ranks.values()), np.uint64) << np.uint64(32)) | np.array(made, np.uint64)
        pairs = np.full(2 << max(1, (4 * len(keys)).bit_length()), _NO_PAIR, np.uint64)
        _fill(pairs, keys, values)
        return cls(characters, singles, pairs)

    def encode(self, text: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Ragged:
        """Return the ids of spans of a text, none for those that are too long. Raises UnicodeDecodeError."""
        kept = np.where(lengths > MOST_BYTES, 0, lengths)
        ids = np.empty(int(kept.sum()), np.int32)
        counts = np.empty(len(kept), np.int64)
        used = _merge(
            text, starts, kept, self.characters, self.bytes, self.pairs, np.empty(MOST_BYTES, np.uint64), ids, counts
        )
        if used < 0:
            for start, length in zip(starts.tolist(), kept.tolist(), strict=True):
                str(text[start : start + length].data, "utf-8")
        return Ragged(ids[:used], ragged.offsets_of(counts))


@inlined
def _hash(key: np.uint64) -> np.uint64:
    return ((key ^ (key >> _32)) * _FACTOR) >> _32


@inlined
def _pair(pairs: _Words, first: np.int32, second: np.int32) -> np.uint64:
    """Return rank and id of the merge of two neighbours, or _NO_PAIR."""
    key = (np.uint64(first) << _32) | np.uint64(second)
    last = len(pairs) // 2 - 1
    place = np.int64(_hash(key)) & last
    while pairs[2 * place] != key:
        if pairs[2 * place] == _NO_PAIR:
            return _NO_PAIR
        place = (place + 1) & last
    return pairs[2 * place + 1]


@compiled
def _fill(pairs: _Words, keys: _Words, values: _Words) -> None:
    """Fill an empty table of pairs."""
    last = len(pairs) // 2 - 1
    for number in range(len(keys)):
        place = np.int64(_hash(keys[number])) & last
        while pairs[2 * place] != _NO_PAIR:
            place = (place + 1) & last
        pairs[2 * place], pairs[2 * place + 1] = keys[number], values[number]


@inlined
def _symbols(text: _Bytes, start: int, end: int, characters: _Ids, singles: _Ids, ids: _Ids, used: int) -> int:
    """Write the symbols of a span before any merge; return their number, or -1 if it is not UTF-8."""
    count, position = 0, start
    while position < end:
        lead = text[position]
        code, size = decoded(text, position)
        # The following code writes to memory. The text was validated as UTF-8 long before, but not by this process.
        if position + size > end or 0x80 <= lead < 0xC2 or lead > 0xF4:
            return -1
        for step in range(1, size):
            if text[position + step] & 0xC0 != 0x80:
                return -1
        symbol = characters[code]
        if symbol >= 0:
            ids[used + count] = symbol
            count += 1
        else:
            for step in range(size):
                ids[used + count] = singles[text[position + step]]
                count += 1
        position += size
    return count


@inlined
def _join(ids: _Ids, used: int, count: int, pairs: _Words, becomes: _Words) -> int:
    """Join the symbols of a span while any of them have a merge; return how many are left."""
    for place in range(count - 1):
        becomes[place] = _pair(pairs, ids[used + place], ids[used + place + 1])
    while True:
        best, chosen = _NO_PAIR, -1
        for place in range(count - 1):
            if becomes[place] < best:
                best, chosen = becomes[place], place
        if chosen < 0:
            return count
        count -= 1
        ids[used + chosen] = np.int32(best & _LOW)
        for place in range(chosen + 1, count):
            ids[used + place] = ids[used + place + 1]
            becomes[place - 1] = becomes[place]
        if chosen > 0:
            becomes[chosen - 1] = _pair(pairs, ids[used + chosen - 1], ids[used + chosen])
        if chosen < count - 1:
            becomes[chosen] = _pair(pairs, ids[used + chosen], ids[used + chosen + 1])


@compiled
def _merge(
    text: _Bytes,
    starts: _Places,
    lengths: _Places,
    characters: _Ids,
    singles: _Ids,
    pairs: _Words,
    becomes: _Words,
    ids: _Ids,
    counts: _Places,
) -> int:
    """Write the ids of spans by BPE, and the number of each; return the total, or -1.

    `becomes` has room for a number for each place of a span: what the symbols from there on become.
    """
    used = 0
    for span in range(len(starts)):
        count = _symbols(text, starts[span], starts[span] + lengths[span], characters, singles, ids, used)
        if count < 0:
            return -1
        count = _join(ids, used, count, pairs, becomes)
        counts[span] = count
        used += count
    return used
