"""What happens to documents before the engine: normalisation, and filters that drop whole documents; off by default."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.reading import Slice

_Parameters = tokenizations_pb2.TokenizationParameters
_FORMS = {_Parameters.NORMALIZATION_NFC: "NFC", _Parameters.NORMALIZATION_NFKC: "NFKC"}
# What is text in any script: letters, marks, numbers and white space.
_TEXT = r"[\p{L}\p{M}\p{N}\p{Z}\t\n\v\f\r\x{85}]+"


class _Filter(NamedTuple):
    """Drops documents."""

    counter: str
    """The statistic that counts them."""
    keeps: Callable[[pa.Array], pa.Array]
    """Tells which documents stay."""


class Cleaner:
    """Cleans the documents of one shard, and counts what it read and what it dropped."""

    def __init__(self, parameters: _Parameters, first_row: int) -> None:
        self.statistics = tokenizations_pb2.TokenizationStatistics()
        """What was read and dropped so far."""
        self._form = _FORMS.get(parameters.normalization)
        self._filters = _filters(parameters.filters)
        self._left = max(0, parameters.max_documents - first_row) if parameters.HasField("max_documents") else None

    def cleaned(self, pieces: Iterator[Slice]) -> Iterator[Slice]:
        """Yields what is left of the pieces."""
        for piece in pieces:
            whole = len(piece.texts)
            limited = self._limited(piece)
            self.statistics.num_documents += len(limited.texts)
            self.statistics.text_bytes += limited.text_bytes
            kept = limited._replace(texts=self._clean(limited.texts))
            if len(kept.texts):
                yield kept
            # The rest of the file is still read, for its checksum.
            if len(limited.texts) < whole:
                return

    def _limited(self, piece: Slice) -> Slice:
        if self._left is None:
            return piece
        if self._left < len(piece.texts):
            texts = piece.texts[: self._left]
            piece = piece._replace(texts=texts, text_bytes=int(pc.sum(pc.binary_length(texts)).as_py() or 0))
        self._left -= len(piece.texts)
        return piece

    def _clean(self, texts: pa.Array) -> pa.Array:
        if self._form is not None:
            texts = pc.utf8_normalize(texts, form=self._form)
        for filtered in self._filters:
            kept = texts.filter(filtered.keeps(texts))
            dropped = len(texts) - len(kept)
            setattr(self.statistics, filtered.counter, getattr(self.statistics, filtered.counter) + dropped)
            texts = kept
        return texts


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
