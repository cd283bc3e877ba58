"""Compiled loops that copy the ids of spans into the table's slots, and into the ids of the texts.

`kernel` documents the content of a slot.
"""

# As in kernel.py.
# mypy: disable-error-code="arg-type,assignment"

import numpy as np
from numpy.typing import NDArray

from services.tokenizer.engines.spans.kernel import INLINE, compiled

_Words = NDArray[np.uint64]
_Ids = NDArray[np.int32]
_Places = NDArray[np.int64]

_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


@compiled
def settle(slots: _Words, bases: _Places, values: _Ids, offsets: _Places, ids: _Ids, used: int) -> int:
    """Write the ids of new spans into their slots."""
    for number in range(len(bases)):
        base, start = bases[number], offsets[number]
        count = offsets[number + 1] - start
        slots[base + 2], slots[base + 3] = np.uint64(count), np.uint64(0)
        if count > INLINE:
            slots[base + 2] |= np.uint64(used) << _32
            for step in range(count):
                ids[used + step] = values[start + step]
            used += count
        else:
            if count > 0:
                slots[base + 2] |= np.uint64(values[start]) << _32
            if count > 1:
                slots[base + 3] |= np.uint64(values[start + 1])
            if count > 2:
                slots[base + 3] |= np.uint64(values[start + 2]) << _32
    return used


@compiled
def splice(
    out: _Ids,
    number: int,
    missing: _Places,
    bases: _Places,
    slots: _Words,
    ids: _Ids,
    before: _Places,
    whole: _Ids,
) -> None:
    """Insert the ids of the missing spans between those that were found; `before` counts the ids before each span."""
    done = 0
    for span in range(len(bases)):
        until = missing[3 * span + 2]
        whole[done + before[span] : until + before[span]] = out[done:until]
        done = until
        place, base = done + before[span], bases[span]
        count = before[span + 1] - before[span]
        if count > INLINE:
            start = np.int64(slots[base + 2] >> _32)
            whole[place : place + count] = ids[start : start + count]
        else:
            if count > 0:
                whole[place] = np.int32(slots[base + 2] >> _32)
            if count > 1:
                whole[place + 1] = np.int32(slots[base + 3] & _LOW)
            if count > 2:
                whole[place + 2] = np.int32(slots[base + 3] >> _32)
    whole[done + before[-1] :] = out[done:number]
