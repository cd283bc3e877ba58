"""Preprocessing of documents: missing texts, normalisation, and filters that drop whole documents."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.sequences import permutation
from services.tokenizer.text.shard_reader import TextSlice

_Parameters = tokenizations_pb2.TokenizationParameters
_FORMS = {_Parameters.NORMALIZATION_NFC: "NFC", _Parameters.NORMALIZATION_NFKC: "NFKC"}
# Text in any script: letters, marks, numbers and white space.
_TEXT = r"[\p{L}\p{M}\p{N}\p{Z}\t\n\v\f\r\x{85}]+"


class _Filter(NamedTuple):
    """Drops documents."""

    counter: str
    """The statistic that counts them."""
    keeps: Callable[[pa.Array], pa.Array]
    """Returns which documents stay."""


class Preprocessor:
    """Cleans the documents of one shard, and counts what it read and dropped."""

    def __init__(self, parameters: _Parameters, first_row: int, dataset_rows: int = 0) -> None:
        """`first_row` is the place of the shard's first row in the dataset, which has `dataset_rows` in all."""
        self.statistics = tokenizations_pb2.TokenizationStatistics()
        """Numbers of documents read and dropped so far."""
        self._null_text = parameters.null_text
        self._form = _FORMS.get(parameters.normalization)
        self._filters = _filters(parameters.filters)
        self._first_row = first_row
        self._limit = parameters.max_documents if parameters.HasField("max_documents") else None
        self._shuffled = (
            permutation.Permutation(parameters.shuffle_seed, dataset_rows)
            if parameters.HasField("shuffle_seed")
            else None
        )

    def cleaned(self, pieces: Iterator[TextSlice]) -> Iterator[TextSlice]:
        """Yield the documents that remain of the pieces, and their rows."""
        row = 0
        for piece in pieces:
            whole = len(piece.texts)
            taken = self._taken(piece._replace(rows=np.arange(row, row + whole)))
            row += whole
            self.statistics.num_documents += len(taken.texts)
            self.statistics.text_bytes += taken.text_bytes
            kept = self._clean(taken)
            if len(kept.texts):
                yield kept
            # The rest of the file is still read, for its checksum.
            if self._shuffled is None and len(taken.texts) < whole:
                return

    def _taken(self, piece: TextSlice) -> TextSlice:
        """Return the documents that max_documents selects: the first ones, or the first ones of the shuffled order."""
        assert piece.rows is not None  # set by cleaned()
        if self._limit is None:
            return piece
        places = piece.rows + self._first_row
        if self._shuffled is not None:
            places = self._shuffled.places(places)
        is_taken = places < self._limit
        return piece if is_taken.all() else _only(piece, is_taken)

    def _clean(self, piece: TextSlice) -> TextSlice:
        if nulls := piece.texts.null_count:
            if self._null_text == _Parameters.NULL_TEXT_DROP:
                self.statistics.num_null_dropped += nulls
                piece = _only(piece, piece.texts.is_valid().to_numpy(zero_copy_only=False))
            else:
                # Readers raise for nulls that no parameter allows.
                assert self._null_text == _Parameters.NULL_TEXT_EMPTY
                self.statistics.num_null_empty += nulls
                piece = piece._replace(texts=piece.texts.fill_null(""))
        if self._form is not None:
            piece = piece._replace(texts=pc.utf8_normalize(piece.texts, form=self._form))
        for filtered in self._filters:
            is_kept = filtered.keeps(piece.texts).to_numpy(zero_copy_only=False)
            dropped = len(is_kept) - int(np.count_nonzero(is_kept))
            setattr(self.statistics, filtered.counter, getattr(self.statistics, filtered.counter) + dropped)
            if dropped:
                piece = _only(piece, is_kept)
        return piece


def _only(piece: TextSlice, which: NDArray[np.bool_]) -> TextSlice:
    assert piece.rows is not None  # set by cleaned()
    texts = piece.texts.filter(pa.array(which))
    size = int(pc.sum(pc.binary_length(texts)).as_py() or 0)
    return piece._replace(texts=texts, text_bytes=size, rows=piece.rows[which])


def _filters(asked: tokenizations_pb2.Filters) -> list[_Filter]:
    filters = []
    if asked.min_characters:
        filters.append(
            _Filter("num_too_short", lambda texts: pc.greater_equal(pc.utf8_length(texts), asked.min_characters))
        )
    if asked.max_characters:
        filters.append(
            _Filter("num_too_long", lambda texts: pc.less_equal(pc.utf8_length(texts), asked.max_characters))
        )
    if asked.keep_pattern:
        filters.append(_Filter("num_unmatched", lambda texts: _matches(texts, asked.keep_pattern)))
    if asked.drop_pattern:
        filters.append(_Filter("num_matched", lambda texts: pc.invert(_matches(texts, asked.drop_pattern))))
    if asked.HasField("max_junk"):
        filters.append(_Filter("num_junk", lambda texts: _clean_enough(texts, asked.max_junk)))
    return filters


def _matches(texts: pa.Array, pattern: str) -> pa.Array:
    return pc.match_substring_regex(texts, pattern=pattern)


def _clean_enough(texts: pa.Array, most: float) -> pa.Array:
    junk = pc.utf8_length(pc.replace_substring_regex(texts, pattern=_TEXT, replacement=""))
    return pc.less_equal(pc.cast(junk, pa.float64()), pc.multiply(pc.cast(pc.utf8_length(texts), pa.float64()), most))
