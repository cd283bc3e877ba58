"""Encode a random sample of every shard again with the reference: a last line of defence.

Exact ids do not depend on it, but on what an engine may see (`encoding_plan`): a sample finds an error that affects
many documents, and would miss one that affects few.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from services.tokenizer.engines import Engine, EngineMismatchError, encode_or_mismatch
from services.tokenizer.sequences import bounded_runs
from services.tokenizer.sequences.ragged import Ragged

SHARE = 0.01
"""Share of the documents that are encoded twice."""
BYTES = 64 << 10
"""Approximate number of bytes of a shard that are encoded twice: in that time an engine encodes 4 MB."""
_LEAST = 4
_DOCUMENT_BYTES = 128 << 10
_BEGINNING_CHARACTERS = 16 << 10


class SpotCheckedEngine:
    """An engine whose ids are compared with the reference's for a sample of the documents of a shard."""

    def __init__(self, engine: Engine, reference: Engine, *, seed: int, shard_bytes: int) -> None:
        self._engine = engine
        self._reference = reference
        self._random = np.random.default_rng(seed)
        self._share = min(SHARE, BYTES / max(shard_bytes, 1))
        self._due = _LEAST

    @property
    def name(self) -> str:
        """The engine's."""
        return self._engine.name

    def encode(self, texts: pa.Array) -> Ragged:
        """Return the ids of each text; raises EngineMismatchError if one of the sample differs."""
        rows = encode_or_mismatch(self._engine, texts)
        sizes = np.diff(bounded_runs.ends_of(texts))
        chosen = self._chosen(sizes)
        long = sizes[chosen] > _DOCUMENT_BYTES
        self._compare(texts.take(pa.array(chosen[~long])), chosen[~long], rows)
        if long.any():
            # Of long documents only the beginning is compared, encoded again by both.
            beginnings = pc.utf8_slice_codeunits(texts.take(pa.array(chosen[long])), 0, _BEGINNING_CHARACTERS)
            again = encode_or_mismatch(self._engine, beginnings)
            self._compare(beginnings, np.arange(len(beginnings)), again)
        return rows

    def _chosen(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        chosen = self._random.random(len(sizes)) < self._share
        filled = np.flatnonzero(sizes)
        if self._due and len(filled):
            some = self._random.choice(filled, min(self._due, len(filled)), replace=False)
            chosen[some] = True
            self._due -= len(some)
        return np.flatnonzero(chosen)

    def _compare(self, texts: pa.Array, places: NDArray[np.int64], rows: Ragged) -> None:
        expected = self._reference.encode(texts)
        for row, place in enumerate(places):
            found = rows.values[rows.offsets[place] : rows.offsets[place + 1]]
            if not np.array_equal(found, expected.values[expected.offsets[row] : expected.offsets[row + 1]]):
                raise EngineMismatchError(
                    self.name, "returned other ids than the reference for a document of the sample"
                )
