"""Packing is, row for row, SAELens's `concat_and_batch_sequences`."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytok import errors
from services.tokenizer.sequences import base, packing, ragged
from services.tokenizer.sequences.base import SequenceRows
from services.tokenizer.sequences.packing import Boundaries
from services.tokenizer.sequences.ragged import Ragged
from tests.support.messages import words
from tests.tokenizer.saelens import batched

# The vectors of SAELens's behaviour; begin-of-batch, begin-of-sequence, separator.
DOCUMENTS = [[5, 6, 7], [8, 9], [1, *range(10, 18)], [], [18]]
GOLDEN = [
    (
        Boundaries(1, None, 1),
        [[1, 5, 6, 7], [1, 8, 9, 1], [1, 10, 11, 12], [1, 13, 14, 15], [1, 16, 17, 1]],
    ),
    (Boundaries(), [[5, 6, 7, 8], [9, 1, 10, 11], [12, 13, 14, 15]]),
    (
        Boundaries(1, 2, 3),
        [
            [1, 2, 5, 6],
            [1, 7, 3, 2],
            [1, 8, 9, 3],
            [1, 2, 1, 10],
            [1, 11, 12, 13],
            [1, 14, 15, 16],
            [1, 17, 3, 2],
        ],
    ),
    (Boundaries(None, None, 3), [[5, 6, 7, 3], [8, 9, 3, 1], [10, 11, 12, 13], [14, 15, 16, 17]]),
]


def flat(documents: Sequence[Sequence[int]]) -> Ragged:
    lengths = np.array([len(document) for document in documents], np.int64)
    return Ragged(
        np.array([token for document in documents for token in document], np.int32), ragged.offsets_of(lengths)
    )


def rows_of(made: Ragged | Iterable[SequenceRows]) -> list[list[int]]:
    """Return the rows as lists: those of flat arrays, or all that a sequencer yields."""
    rows = made if isinstance(made, Ragged) else ragged.concatenate([part.ids for part in made])
    return [rows.values[a:b].tolist() for a, b in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]


def walked(documents: Sequence[Sequence[int]], length: int, boundaries: Boundaries) -> Iterator[list[int]]:
    """Yield the same as SAELens, one token at a time: slow, and plain enough to be believed."""
    row: list[int] = []
    for document in documents:
        tokens = list(document)
        if not tokens:
            continue
        if boundaries.begin_of_sequence is not None and tokens[0] != boundaries.begin_of_sequence:
            tokens.insert(0, boundaries.begin_of_sequence)
        if row and boundaries.separator is not None and tokens[0] != boundaries.separator:
            tokens.insert(0, boundaries.separator)
        for token in tokens:
            if not row and boundaries.begin_of_batch is not None and token != boundaries.begin_of_batch:
                row.append(boundaries.begin_of_batch)
            row.append(token)
            if len(row) == length:
                yield row
                row = []


def walked_starts(
    documents: Sequence[Sequence[int]], length: int, boundaries: Boundaries, *, separator_opens: bool
) -> Iterator[list[int]]:
    """The places in SAELens's rows at which another document than the one before starts, each token marked with its."""
    row: list[int | None] = []
    earlier = None
    for number, document in enumerate(documents):
        if not document:
            continue
        tokens = [(token, number) for token in document]
        if boundaries.begin_of_sequence is not None and tokens[0][0] != boundaries.begin_of_sequence:
            tokens.insert(0, (boundaries.begin_of_sequence, number))
        if row and boundaries.separator is not None and tokens[0][0] != boundaries.separator:
            tokens.insert(0, (boundaries.separator, number if separator_opens else earlier))
        earlier = number
        for token, owner in tokens:
            if not row and boundaries.begin_of_batch is not None and token != boundaries.begin_of_batch:
                row.append(owner)
            row.append(owner)
            if len(row) == length:
                yield [place for place in range(length) if place == 0 or row[place] != row[place - 1]]
                row = []


@pytest.mark.parametrize(("boundaries", "rows"), GOLDEN)
def test_golden_vectors(boundaries: Boundaries, rows: list[list[int]]) -> None:
    assert rows_of(packing.Packer(base.NO_FRAME, 4, boundaries).add(flat(DOCUMENTS))) == rows


def test_golden_vector_without_concatenation() -> None:
    rows = packing.DocumentCutter(base.NO_FRAME, 4, Boundaries(begin_of_batch=1)).add(flat(DOCUMENTS))
    assert rows_of(rows) == [[1, 5, 6, 7], [1, 10, 11, 12]]


ids = st.integers(1, 4)
boundary = st.none() | ids


@settings(deadline=None)
@given(
    documents=st.lists(st.lists(ids, max_size=12), max_size=12),
    length=st.integers(2, 9),
    boundaries=st.builds(Boundaries, boundary, boundary, boundary),
)
def test_rows_are_those_of_saelens(documents: list[list[int]], length: int, boundaries: Boundaries) -> None:
    expected = batched(documents, length, boundaries)
    assert rows_of(packing.Packer(base.NO_FRAME, length, boundaries).add(flat(documents))) == expected
    assert list(walked(documents, length, boundaries)) == expected
    cut = rows_of(packing.DocumentCutter(base.NO_FRAME, length, boundaries).add(flat(documents)))
    assert cut == batched(documents, length, boundaries, alone=True)


@pytest.mark.parametrize("length", [1, 2, 5, 33])
@pytest.mark.parametrize("separator", [None, 1, 3])
@pytest.mark.parametrize("begin_of_sequence", [None, 1, 2])
@pytest.mark.parametrize("begin_of_batch", [None, 1])
def test_every_combination_of_boundaries(
    begin_of_batch: int | None, begin_of_sequence: int | None, separator: int | None, length: int
) -> None:
    if begin_of_batch is not None:
        # With 1 SAELens makes no end of it, and it is refused here.
        length += 1
    boundaries = Boundaries(begin_of_batch, begin_of_sequence, separator)
    chance = np.random.default_rng(7)
    documents = [chance.integers(1, 9, chance.integers(0, 40)).tolist() for _ in range(60)]
    expected = batched(documents, length, boundaries)
    assert rows_of(packing.Packer(base.NO_FRAME, length, boundaries).add(flat(documents))) == expected


@settings(deadline=None)
@given(
    documents=st.lists(st.lists(ids, max_size=12), max_size=12),
    length=st.integers(2, 9),
    boundaries=st.builds(Boundaries, boundary, boundary, boundary),
    pieces=st.lists(st.integers(1, 4), min_size=12, max_size=12),
)
def test_documents_in_any_batches(
    documents: list[list[int]], length: int, boundaries: Boundaries, pieces: list[int]
) -> None:
    packed = packing.Packer(base.NO_FRAME, length, boundaries)
    rows = []
    rest = documents
    for piece in pieces:
        rows += rows_of(packed.add(flat(rest[:piece])))
        rest = rest[piece:]
    assert rows == list(walked(documents, length, boundaries))


@settings(deadline=None)
@given(
    documents=st.lists(st.lists(ids, max_size=12), max_size=12),
    length=st.integers(2, 9),
    boundaries=st.builds(Boundaries, boundary, boundary, boundary),
    pieces=st.lists(st.integers(1, 4), min_size=12, max_size=12),
    separator_opens=st.booleans(),
)
def test_document_starts_equal_the_walk(
    documents: list[list[int]], length: int, boundaries: Boundaries, pieces: list[int], separator_opens: bool
) -> None:
    packed = packing.Packer(base.NO_FRAME, length, boundaries, separator_opens=separator_opens)
    rows, starts = [], []
    rest = documents
    for piece in pieces:
        for made in packed.add(flat(rest[:piece])):
            assert made.document_starts is not None
            rows += rows_of(made.ids)
            starts += rows_of(made.document_starts)
        rest = rest[piece:]
    assert rows == list(walked(documents, length, boundaries))
    assert starts == list(walked_starts(documents, length, boundaries, separator_opens=separator_opens))


def test_long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [list(range(2, 500)), [1], list(range(600, 1100))]
    expected = list(walked(documents, 5, Boundaries(1, None, 1)))
    monkeypatch.setattr(packing, "_RUN", 3)
    assert rows_of(packing.Packer(base.NO_FRAME, 5, Boundaries(1, None, 1)).add(flat(documents))) == expected


def test_special_tokens_around_documents() -> None:
    around = base.Frame(np.array([7], np.int32), np.array([8, 9], np.int32))
    rows = packing.Packer(around, 3, Boundaries(separator=1)).add(flat([[2], [3]]))
    assert rows_of(rows) == [[7, 2, 8], [9, 1, 7], [3, 8, 9]]


def test_length_without_room() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        packing.Packer(base.NO_FRAME, 1, Boundaries(begin_of_batch=1))
    assert [violation.field for violation in caught.value.violations] == ["parameters.max_length"]
    assert {"1", "2"} <= words(caught.value.message)
