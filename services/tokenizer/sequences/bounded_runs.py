"""Split texts into consecutive runs of bounded size."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.ragged import Offsets


def ends_of(texts: pa.Array) -> Offsets:
    """Return where each text begins and ends, in bytes, when they are concatenated; null counts as empty."""
    return ragged.offsets_of(pc.binary_length(texts).fill_null(0).to_numpy(zero_copy_only=False))


def runs(ends: Offsets, most_bytes: int, most_rows: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the past-the-last row of each run; a text that exceeds the bound is a run by itself."""
    start = 0
    while start < len(ends) - 1:
        stop = int(np.searchsorted(ends, ends[start] + most_bytes, side="right")) - 1
        stop = max(start + 1, min(stop, start + most_rows))
        yield start, stop
        start = stop
