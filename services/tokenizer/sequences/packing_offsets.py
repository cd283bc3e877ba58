"""How a part of a stream of documents moves the places at which packed rows start.

The phase of a part is the number of its tokens that belong to a row that began before it: the first row in it starts
that many tokens after its beginning. Where a row starts decides, with the tokens there, where the next one does, so
the phase of a part decides that of the next part. There are only as many phases as a row has tokens; one pass over the
part, piece by piece, computes the result for all of them. The phases of all parts then follow one from the other,
without reading any token.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.sequences.jit import compiled
from services.tokenizer.sequences.ragged import Ids


def are_needed(parameters: tokenizations_pb2.TokenizationParameters) -> bool:
    """Return whether rows may continue from one part to the next."""
    return parameters.HasField("packing") and not parameters.packing.disable_concatenation


def identity_offsets(length: int) -> Ids:
    """Return what each phase becomes after a part without tokens: it is unchanged."""
    return np.arange(length, dtype=np.int32)


def advance(tokens: Ids, droppable: NDArray[np.bool_], begin_of_batch: int | None, phases: Ids) -> Ids:
    """Return what each phase becomes after further tokens, given what it became before them.

    `droppable` marks the separators, which a row that starts there leaves out; a row that does not start with
    `begin_of_batch` has it inserted, and takes one token less.
    """
    begin = -1 if begin_of_batch is None else begin_of_batch
    found: Ids = _walk(tokens, droppable, begin, begin_of_batch is not None, len(phases))[phases]
    return found


def advance_plain(count: int, phases: Ids) -> Ids:
    """Return the same as `advance` for a number of tokens without separators or begin-of-batch tokens."""
    return (phases - np.int32(count % len(phases))) % np.int32(len(phases))


def resolve_offsets(moves: Iterable[Ids]) -> list[int]:
    """Return the phase of each part of a stream, given what each phase becomes in each part."""
    phases = [0]
    for moved in moves:
        phases.append(int(moved[phases[-1]]))
    return phases[:-1]


@compiled
def _walk(tokens: Ids, droppable: NDArray[np.bool_], begin: int, begins: bool, length: int) -> Ids:
    count = len(tokens)
    # For a row that starts there: the number of tokens after the end at which the next row starts.
    found = np.empty(max(count, length), np.int32)
    for place in range(count, length):
        found[place] = place - count
    for place in range(count - 1, -1, -1):
        start = place + 1 if droppable[place] else place
        next_start = start + length
        if begins and tokens[start] != begin:
            next_start -= 1
        found[place] = found[next_start] if next_start < count else next_start - count
    return found[:length].copy()
