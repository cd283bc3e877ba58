"""The amount of text in rows, including that in lists and objects, by which shards are sized."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Sizes = NDArray[np.int64]


def text_bytes_per_row(batch: pa.RecordBatch) -> Sizes:
    """Return the UTF-8 bytes in each row."""
    total = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        total += _of(column)
    return total


def _of(array: pa.Array) -> Sizes:
    kind = array.type
    if pa.types.is_string(kind):
        return _filled(pc.binary_length(array))
    if isinstance(kind, pa.BaseExtensionType):
        return _of(array.storage)
    if pa.types.is_struct(kind):
        summed: Sizes = np.sum([np.zeros(len(array), np.int64), *map(_of, array.flatten())], axis=0)
        return summed
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        # The hidden value behind a null is not flattened, and has no length.
        ends = np.cumsum(_filled(pc.list_value_length(array)))
        before = np.concatenate([[0], np.cumsum(_of(array.flatten()))])
        found: Sizes = np.diff(before[ends], prepend=0)
        return found
    return np.zeros(len(array), np.int64)


def _filled(lengths: Any) -> Sizes:
    filled: Sizes = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return filled
