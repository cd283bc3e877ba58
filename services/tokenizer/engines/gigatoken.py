"""gigatoken: byte-level and SentencePiece BPE in Rust, from Arrow's buffers to flat arrays without a copy."""

from typing import Final

import awkward as ak
import numpy as np
import pyarrow as pa
from gigatoken import gigatoken_rs

from services.tokenizer.sequences import bounded_runs, ragged
from services.tokenizer.sequences.ragged import Ragged

_WHOLE_BYTES = 1 << 20
"""Longer texts would be split between threads, at places that it assumes to be safe."""


class Gigatoken:
    """Encodes with gigatoken's own tokenizer, created from the reference's content."""

    name = "gigatoken"
    longest: Final = 1 << 30
    """It counts ids in 32 bits."""

    def __init__(self, content: str, *, parallel: bool) -> None:
        self._backend = gigatoken_rs.load_hf_json(content)
        self._parallel = parallel

    def encode(self, texts: pa.Array) -> Ragged:
        """Return the ids of each text."""
        long = np.diff(bounded_runs.ends_of(texts)) > _WHOLE_BYTES
        if not self._parallel or not long.any():
            return self._encode(texts, parallel=self._parallel)
        short, whole = texts.filter(pa.array(~long)), texts.filter(pa.array(long))
        return ragged.interleave(self._encode(short, parallel=True), self._encode(whole, parallel=False), long)

    def _encode(self, texts: pa.Array, *, parallel: bool) -> Ragged:
        if not len(texts):
            return ragged.EMPTY
        encoded = self._backend.encode_batch(_strings(texts), parallel=parallel).layout
        offsets = np.asarray(encoded.offsets.data).astype(np.int64, copy=False)
        values = np.asarray(encoded.content.data)
        if values.dtype != np.uint32 or offsets[0]:
            raise TypeError(f"gigatoken returned {values.dtype} from {offsets[0]} on, not uint32 from 0")
        return Ragged(values.view(np.int32)[: offsets[-1]], offsets)


def _strings(texts: pa.Array) -> ak.Array:
    """Return the same buffers as awkward's strings."""
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int64, len(texts) + 1, texts.offset * 8)
    characters = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    content = ak.contents.NumpyArray(characters, parameters={"__array__": "char"})
    rows = ak.contents.ListOffsetArray(ak.index.Index64(places), content, parameters={"__array__": "string"})
    return ak.Array(rows)
