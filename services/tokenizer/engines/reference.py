"""The reference: the Hugging Face fast tokenizer itself. Every other engine has to give its ids."""

import itertools

import numpy as np
import pyarrow as pa
import tokenizers

from services.tokenizer import ragged
from services.tokenizer.ragged import Ragged


class Reference:
    """Encodes with a `tokenizers.Tokenizer` whose truncation and padding are off."""

    name = "reference"

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend

    def encode(self, texts: pa.Array) -> Ragged:
        """Returns the ids of each text."""
        encodings = self._backend.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        offsets = ragged.offsets_of(np.fromiter(map(len, rows), np.int64, len(rows)))
        values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(offsets[-1]))
        return Ragged(values, offsets)
