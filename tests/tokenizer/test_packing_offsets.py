"""Parts of a stream that are packed by themselves give, put together, the rows of the whole."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.tokenizer.sequences import base, packing, packing_offsets
from services.tokenizer.sequences.packing import Boundaries
from tests.tokenizer.test_packing import boundary, flat, ids, rows_of, walked, walked_starts

Documents = list[list[int]]


class Parts:
    """Some documents in parts, each of which is given in pieces of two documents."""

    def __init__(self, parts: Sequence[Documents], length: int, boundaries: Boundaries, *, opens: bool | None) -> None:
        self._parts = parts
        self._how = (base.NO_FRAME, length, boundaries)
        self._opens = opens

    def _packed(self) -> packing.Packer:
        return packing.Packer(*self._how, separator_opens=self._opens)

    def phases(self) -> list[int]:
        """Return what is found of each part by itself, piece by piece."""
        moves = []
        for part in self._parts:
            moved = packing_offsets.identity_offsets(self._how[1])
            for piece in pieces(part):
                moved = self._packed().advance_offsets(flat(piece), moved)
            moves.append(moved)
        return packing_offsets.resolve_offsets(moves)

    def packed(self) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
        """Yield the rows of every part, and where documents start in them."""
        for number, phase in enumerate(self.phases()):
            packed = self._packed()
            packed.skip(phase)
            following = (flat([document]) for part in self._parts[number + 1 :] for document in part)
            made = [rows for piece in pieces(self._parts[number]) for rows in packed.add(flat(piece))]
            made += packed.complete(following)
            starts = [rows.document_starts for rows in made if rows.document_starts is not None]
            assert len(starts) == (0 if self._opens is None else len(made))
            yield rows_of(made), [start for each in starts for start in rows_of(each)]


def pieces(part: Documents) -> Iterator[Documents]:
    return (part[first : first + 2] for first in range(0, len(part), 2))


@settings(deadline=None)
@given(
    parts=st.lists(st.lists(st.lists(ids, max_size=9), max_size=5), max_size=5),
    length=st.integers(2, 12),
    boundaries=st.builds(Boundaries, boundary, boundary, boundary),
    opens=st.booleans(),
)
def test_parts_equal_the_whole(parts: list[Documents], length: int, boundaries: Boundaries, opens: bool) -> None:
    made = list(Parts(parts, length, boundaries, opens=opens).packed())
    whole = [document for part in parts for document in part]
    assert [row for rows, _ in made for row in rows] == list(walked(whole, length, boundaries))
    starts = walked_starts(whole, length, boundaries, separator_opens=opens)
    assert [row for _, rows in made for row in rows] == list(starts)


@settings(deadline=None)
@given(
    parts=st.lists(st.lists(st.lists(ids, max_size=9), max_size=5), max_size=5),
    length=st.integers(2, 12),
    boundaries=st.one_of(st.just(Boundaries()), st.builds(Boundaries, boundary, boundary, boundary)),
)
def test_parts_without_document_starts(parts: list[Documents], length: int, boundaries: Boundaries) -> None:
    made = [row for rows, _ in Parts(parts, length, boundaries, opens=None).packed() for row in rows]
    assert made == list(walked([document for part in parts for document in part], length, boundaries))


def test_a_row_that_covers_whole_parts() -> None:
    parts = [[[2, 3]], [[4]], [], [[5, 6]], [[7, 8, 9, 2, 3]]]
    made = [rows for rows, _ in Parts(parts, 8, Boundaries(), opens=True).packed()]
    assert made == [[[2, 3, 4, 5, 6, 7, 8, 9]], [], [], [], []]
    assert Parts(parts, 8, Boundaries(), opens=True).phases() == [0, 6, 5, 5, 3]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40])
def test_each_phase_is_what_a_walk_finds(count: int) -> None:
    chance = np.random.default_rng(count)
    tokens = chance.integers(1, 4, count).astype(np.int32)
    droppable = (tokens == 3) & (np.arange(count) < count - 1)
    plain = packing_offsets.advance(tokens, np.zeros(count, np.bool_), None, packing_offsets.identity_offsets(8))
    assert np.array_equal(packing_offsets.advance_plain(count, packing_offsets.identity_offsets(8)), plain)
    found = packing_offsets.advance(tokens, droppable, 1, packing_offsets.identity_offsets(8))
    for phase in range(8):
        place = phase
        while place < count:
            place += int(droppable[place])
            place += 8 if tokens[place] == 1 else 7
        assert found[phase] == place - count
