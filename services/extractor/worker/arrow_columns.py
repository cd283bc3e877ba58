"""The columns of an extraction's files, readable by `datasets` and by SAELens as cached activations.

A row holds `context_size` vectors of each hook, in a column named after the hook. SAELens
(`training/activations_store.py`) expects `Array2D` of [context_size, width] there, and `token_ids` beside it. Rows are
full: the selected vectors follow one another as in the tokenization, across the ends of its rows where these are
shorter. `row_index` and `position` give the source row and position of each vector.

Arrow has no bfloat16. Such a column stores the 16 bits of each number as uint16, and its name is the hook's name plus
`.bfloat16`. Read as integers they would train a model on nonsense; under this name SAELens does not find the column.
To get the numbers, use `numpy_array.view` or `torch.from_numpy(array).view(torch.bfloat16)`.
"""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

TOKEN_IDS = "token_ids"  # noqa: S105  tokens of text
ROW_INDEX = "row_index"
POSITION = "position"
STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""The number formats that activations are stored in."""
_ARROW = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}


def column(hook: str, storage_dtype: str) -> str:
    """Return the name of the column that holds a hook's vectors."""
    return f"{hook}.bfloat16" if storage_dtype == "bfloat16" else hook


def features(widths: Mapping[str, int], context_size: int, storage_dtype: str) -> datasets.Features:
    """Return the columns as `datasets` features; `widths` maps each hook to the numbers per vector."""
    kind = _ARROW[storage_dtype]
    columns: dict[str, Any] = {
        column(hook, storage_dtype): datasets.Array2D((context_size, width), kind) for hook, width in widths.items()
    }
    for name, of in ((TOKEN_IDS, "int32"), (ROW_INDEX, "int64"), (POSITION, "int32")):
        columns[name] = datasets.Sequence(datasets.Value(of), length=context_size)
    return datasets.Features(columns)


def bytes_per_vector(widths: Mapping[str, int], storage_dtype: str) -> int:
    """Return the bytes that one token takes on disk, all hooks together."""
    return sum(widths.values()) * STORED[storage_dtype].itemsize + 4 * len(widths) + 16


def vectors(values: Tensor, context_size: int, kind: pa.DataType) -> pa.Array:
    """Return vectors [rows * context_size, width] as an Arrow column of the extension type, without copying."""
    width = values.shape[1]
    values = values.contiguous()
    # NumPy has no bfloat16 either.
    flat = (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy().reshape(-1)
    inner = pa.ListArray.from_arrays(_offsets(len(values), width), _array(flat))
    return pa.ExtensionArray.from_storage(
        kind, pa.ListArray.from_arrays(_offsets(len(values) // context_size, context_size), inner)
    )


def lists(values: Tensor, context_size: int, kind: pa.DataType) -> pa.Array:
    """Return numbers [rows * context_size] as an Arrow column of fixed-length lists, without copying."""
    return pa.FixedSizeListArray.from_arrays(_array(values.contiguous().numpy()), type=kind)


def _offsets(count: int, step: int) -> pa.Array:
    return _array(np.arange(0, (count + 1) * step, step, dtype=np.int32))


def _array(values: NDArray[Any]) -> pa.Array:
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
