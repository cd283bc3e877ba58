"""The compiled loops over bytes: cutting, and looking spans up.

The table of spans is an array of slots of four words, found by open addressing:

    0  the span's bytes 0 to 7, or the hash of a long span
    1  the span's bytes 8 to 14 and, in the highest byte, how many bytes it has: never 0, so 0 is an empty slot.
       Of a span of more than 15 bytes the highest byte is 255, the rest the place of its length and bytes in `keys`
    2  how many ids it has, and in the high half the first id, or the place in `ids` if there are more than three
    3  the second and the third id

A span is found only if all its bytes are the same. Bytes are read as words, lowest first, PADDING after the text too.
"""

# An int becomes a 64-bit integer when compiled, and so do values read from arrays.
# mypy: disable-error-code="arg-type,assignment,no-any-return,return-value"

from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., object])
_Bytes = NDArray[np.uint8]
_Words = NDArray[np.uint64]
_Ids = NDArray[np.int32]
_Classes = NDArray[np.uint32]
_Places = NDArray[np.int64]

PADDING = 32
SLOT = 4
INLINE = 3
"""Number of ids that a slot has room for."""
ROOM = 64
"""A span with more ids is inserted afterwards, like one that is not in the table."""
_SHORT = 15
_ONE, _EIGHT, _32, _56, _63, _64 = (np.uint64(number) for number in (1, 8, 32, 56, 63, 64))
_LOW = np.uint64(0xFFFFFFFF)
_ASCII, _SEVEN = np.uint32(0x80), np.uint32(7)
_PLACE = np.uint64((1 << 56) - 1)
_LONG = np.uint64(255 << 56)
_A, _B, _C = (np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD))


def inlined(function: _Function) -> _Function:
    """Compile for use by the other functions: a call would cost more than most of these functions do."""
    inlined: _Function = numba.njit(forceinline=True)(function)
    return inlined


def compiled(function: _Function) -> _Function:
    """Compile on first use; cache the result on disk if a folder is writable."""
    try:
        compiled: _Function = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        compiled = numba.njit(nogil=True)(function)
    return compiled


@inlined
def _word(words: _Words, start: int) -> np.uint64:
    place = start >> 3
    shift = np.uint64((start & 7) << 3)
    return (words[place] >> shift) | ((words[place + 1] << _ONE) << (_63 - shift))


@inlined
def _first_bytes(word: np.uint64, number: int) -> np.uint64:
    """Keep 1 to 8 bytes."""
    shift = _64 - (np.uint64(number) * _EIGHT)
    return (word << shift) >> shift


@inlined
def _mixed(word: np.uint64) -> np.uint64:
    word = (word ^ (word >> _32)) * _B
    return word ^ (word >> _32)


@inlined
def _hash(words: _Words, start: int, length: int) -> np.uint64:
    found = np.uint64(length)
    for done in range(0, length, 8):
        found = _mixed((found * _A) ^ _first_bytes(_word(words, start + done), min(8, length - done)))
    return found


@inlined
def _key(words: _Words, start: int, length: int) -> tuple[np.uint64, np.uint64]:
    if length > _SHORT:
        return _hash(words, start, length), _LONG
    size = np.uint64(length) << _56
    if length <= 8:
        return _first_bytes(_word(words, start), length), size
    return _word(words, start), _first_bytes(_word(words, start + 8), length - 8) | size


@inlined
def _same(words: _Words, start: int, length: int, keys: _Words, place: int) -> bool:
    if keys[place] != np.uint64(length):
        return False
    for done in range(0, length, 8):
        place += 1
        if keys[place] != _first_bytes(_word(words, start + done), min(8, length - done)):
            return False
    return True


@inlined
def _find(slots: _Words, keys: _Words, words: _Words, start: int, length: int) -> int:
    """Return where a span's slot begins, or the complement of where it would begin if it has none."""
    first, second = _key(words, start, length)
    last = len(slots) // SLOT - 1
    place = np.int64(_mixed((first * _A) ^ (second * _C)) >> _ONE) & last
    while True:
        base = place * SLOT
        held = slots[base + 1]
        if held == np.uint64(0):
            return ~base
        if slots[base] == first:
            if length > _SHORT:
                if held >= _LONG and _same(words, start, length, keys, np.int64(held & _PLACE)):
                    return base
            elif held == second:
                return base
        place = (place + 1) & last


@inlined
def decoded(text: _Bytes, position: int) -> tuple[int, int]:
    """Return a character and its length."""
    lead = np.uint32(text[position])
    if lead < 0x80:
        return lead, 1
    code, size = lead & np.uint32(0x1F), 2
    if lead >= 0xF0:
        code, size = lead & np.uint32(0x07), 4
    elif lead >= 0xE0:
        code, size = lead & np.uint32(0x0F), 3
    for step in range(1, size):
        code = (code << np.uint32(6)) | (np.uint32(text[position + step]) & np.uint32(0x3F))
    return np.uint32(code), size


@inlined
def _cut(
    text: _Bytes,
    position: int,
    end: int,
    left: _Classes,
    right: _Classes,
    pairs: NDArray[np.bool_],
    ascii_pairs: NDArray[np.bool_],
) -> int:
    """Return the first place after a position where a cut is exact, or the end."""
    code, size = decoded(text, position)
    position += size
    while position < end:
        byte = np.uint32(text[position])
        if (code | byte) < _ASCII:
            if ascii_pairs[(code << _SEVEN) | byte]:
                return position
            code = byte
            position += 1
        else:
            row = left[code]
            code, size = decoded(text, position)
            if pairs[row + right[code]]:
                return position
            position += size
    return end


@inlined
def _holds(text: _Bytes, start: int, end: int, needles: _Bytes, bounds: _Places, heads: _Places) -> bool:
    """Return whether a text contains any of the needles, which are sorted by their first bytes."""
    for position in range(start, end):
        byte = text[position]
        for needle in range(heads[byte], heads[byte + 1]):
            length = bounds[needle + 1] - bounds[needle]
            if position + length > end:
                continue
            step = 1
            while step < length and text[position + step] == needles[bounds[needle] + step]:
                step += 1
            if step >= length:
                return True
    return False


@inlined
def _begins_with_space(text: _Bytes, start: int, end: int) -> bool:
    if text[start] == 0x20:
        return True
    return end - start >= 3 and text[start] == 0xE2 and text[start + 1] == 0x96 and text[start + 2] == 0x81


@compiled
def lay_out(
    data: _Bytes,
    offsets: _Places,
    prefix: int,
    needles: _Bytes,
    bounds: _Places,
    heads: _Places,
    text: _Bytes,
    ends: _Places,
    apart: NDArray[np.bool_],
) -> None:
    """Copy documents one after the other, each with its prepended space; leave out those with a needle."""
    place = 0
    for document in range(len(offsets) - 1):
        start, end = offsets[document], offsets[document + 1]
        apart[document] = _holds(data, start, end, needles, bounds, heads)
        if start < end and not apart[document]:
            if prefix == 1 or (prefix == 2 and not _begins_with_space(data, start, end)):
                text[place] = 0x20
                place += 1
            text[place : place + end - start] = data[start:end]
            place += end - start
        ends[document] = place


@compiled
def scan(
    text: _Bytes,
    words: _Words,
    ends: _Places,
    state: _Places,
    left: _Classes,
    right: _Classes,
    pairs: NDArray[np.bool_],
    ascii_pairs: NDArray[np.bool_],
    blank: NDArray[np.bool_],
    slots: _Words,
    keys: _Words,
    ids: _Ids,
    out: _Ids,
    rows: _Places,
    missing: _Places,
    most_bytes: int,
) -> None:
    """Write the ids of spans until the texts end, or the room for missing spans is used up.

    `state` is document, position, ids written, spans missing. A missing span is start, length and the number of ids
    before it; a finished document is its number of ids and of missing spans.
    """
    document, position, number, missed = state[0], state[1], 0, 0
    bytes_missed = 0
    room, most = len(out) - ROOM, len(missing) // 3
    while document < len(ends):
        end = ends[document]
        while position < end:
            if blank[text[position]]:
                position += 1
                continue
            if number > room or missed == most or bytes_missed > most_bytes:
                state[0], state[1], state[2], state[3] = document, position, number, missed
                return
            stop = _cut(text, position, end, left, right, pairs, ascii_pairs)
            base = _find(slots, keys, words, position, stop - position)
            count = ROOM + 1 if base < 0 else np.int64(slots[base + 2] & _LOW)
            if count <= INLINE:
                out[number] = np.int32(slots[base + 2] >> _32)
                out[number + 1] = np.int32(slots[base + 3] & _LOW)
                out[number + 2] = np.int32(slots[base + 3] >> _32)
                number += count
            elif count <= ROOM:
                place = np.int64(slots[base + 2] >> _32)
                for step in range(count):
                    out[number + step] = ids[place + step]
                number += count
            else:
                missing[3 * missed] = position
                missing[3 * missed + 1] = stop - position
                missing[3 * missed + 2] = number
                missed += 1
                bytes_missed += stop - position
            position = stop
        rows[2 * document], rows[2 * document + 1] = number, missed
        document += 1
    state[0], state[1], state[2], state[3] = document, position, number, missed


@compiled
def insert(
    words: _Words,
    missing: _Places,
    slots: _Words,
    keys: _Words,
    used: int,
    bases: _Places,
    fresh: _Places,
) -> tuple[int, int]:
    """Assign each missing span its slot; return which are new, and how much of `keys` is used now."""
    new = 0
    for number in range(len(missing) // 3):
        start, length = missing[3 * number], missing[3 * number + 1]
        base = _find(slots, keys, words, start, length)
        if base < 0:
            base = ~base
            first, second = _key(words, start, length)
            if length > _SHORT:
                second = _LONG | np.uint64(used)
                keys[used] = np.uint64(length)
                used += 1
                for done in range(0, length, 8):
                    keys[used] = _first_bytes(_word(words, start + done), min(8, length - done))
                    used += 1
            slots[base], slots[base + 1] = first, second
            fresh[new] = number
            new += 1
        bases[number] = base
    return new, used


@compiled
def rehash(old: _Words, slots: _Words) -> None:
    """Move every slot to a larger table."""
    last = len(slots) // SLOT - 1
    for start in range(0, len(old), SLOT):
        second = old[start + 1]
        if second != np.uint64(0):
            kind = min(second, _LONG)
            place = np.int64(_mixed((old[start] * _A) ^ (kind * _C)) >> _ONE) & last
            while slots[place * SLOT + 1] != np.uint64(0):
                place = (place + 1) & last
            for step in range(SLOT):
                slots[place * SLOT + step] = old[start + step]
