"""fastokens: BPE in Rust. It takes Python strings, one per document, and returns flat buffers."""

from typing import Final

import fastokens
import numpy as np
import pyarrow as pa

from services.tokenizer.sequences.ragged import Ragged


class Fastokens:
    """Encodes with fastokens' own tokenizer, created from the reference's content."""

    name = "fastokens"
    longest: Final = 4095
    """It splits longer texts between threads, and reuses results for texts with the same beginning."""

    def __init__(self, content: str, *, split_special_tokens: bool) -> None:
        self._backend = fastokens.Tokenizer.from_json_str(content)
        self._split_special_tokens = split_special_tokens

    def encode(self, texts: pa.Array) -> Ragged:
        """Return the ids of each text."""
        ids, offsets = self._backend.encode_batch_flat(
            texts.to_pylist(), add_special_tokens=False, split_special_tokens=self._split_special_tokens
        )
        return Ragged(np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64))
