"""The reference: the Hugging Face fast tokenizer itself. Every other engine must return its ids."""

import itertools

import numpy as np
import pyarrow as pa
import tokenizers

from services.tokenizer.engines import chunking
from services.tokenizer.sequences import bounded_runs, ragged
from services.tokenizer.sequences.ragged import Ragged

VERSION = tokenizers.__version__
"""The version that defines the exact ids."""

_RUN_BYTES = 1 << 20
"""Bytes of text that are encoded at once: encoding needs more than a hundred times as much memory."""
_RUN_ROWS = 10_000


class Reference:
    """Encodes with a `tokenizers.Tokenizer` whose truncation and padding are off."""

    name = "reference"

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._cutter: chunking.Chunker | None = None

    def encode(self, texts: pa.Array) -> Ragged:
        """Return the ids of each text."""
        runs = bounded_runs.runs(bounded_runs.ends_of(texts), _RUN_BYTES, _RUN_ROWS)
        return ragged.concatenate([self._encode(texts[start:stop].to_pylist()) for start, stop in runs])

    def _encode(self, documents: list[str]) -> Ragged:
        if len(documents) == 1 and len(documents[0]) > chunking.PART_CHARACTERS:
            return self._encode_long(documents[0])
        return self._encode_whole(documents)

    def _encode_whole(self, documents: list[str]) -> Ragged:
        encodings = self._backend.encode_batch_fast(documents, add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        offsets = ragged.offsets_of(np.fromiter(map(len, rows), np.int64, len(rows)))
        values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(offsets[-1]))
        return Ragged(values, offsets)

    def _encode_long(self, document: str) -> Ragged:
        # Created when needed: it reads the whole vocabulary, and few datasets have such documents.
        self._cutter = self._cutter or chunking.Chunker(self._backend)
        values = np.concatenate([self._encode_whole([part]).values for part in self._cutter.chunks(document)])
        return Ragged(values, np.array([0, len(values)], np.int64))
