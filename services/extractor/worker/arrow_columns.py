"""The columns of an extraction's files: what `datasets` opens and SAELens takes for cached activations.

A row holds `context_size` vectors of each hook, in a column that has the hook's name. SAELens
(`training/activations_store.py`) wants `Array2D` of [context_size, width] there, and `token_ids` beside it. Rows are
full: the vectors that were kept follow one another as in the tokenization, over the ends of its rows where these are
shorter, and `row_index` and `position` say which row and which place in it each is from.

Arrow has no bfloat16. Such a column holds the numbers' 16 bits as uint16, and has `.bfloat16` behind the hook's name:
read as what it seems, it would train a model on nonsense, and under this name SAELens does not find it.
`numpy_array.view` or `torch.from_numpy(array).view(torch.bfloat16)` are the numbers.
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
    """Return the name of the column with a hook's vectors."""
    return f"{hook}.bfloat16" if storage_dtype == "bfloat16" else hook


def features(widths: Mapping[str, int], context_size: int, storage_dtype: str) -> datasets.Features:
    """Return the columns as `datasets` describes them; `widths` has the numbers per vector of each hook."""
    kind = _ARROW[storage_dtype]
    columns: dict[str, Any] = {
        column(hook, storage_dtype): datasets.Array2D((context_size, width), kind) for hook, width in widths.items()
    }
    for name, of in ((TOKEN_IDS, "int32"), (ROW_INDEX, "int64"), (POSITION, "int32")):
        columns[name] = datasets.Sequence(datasets.Value(of), length=context_size)
    return datasets.Features(columns)


def bytes_per_vector(widths: Mapping[str, int], storage_dtype: str) -> int:
    """Return how much a token takes on the disk, all hooks together."""
    return sum(widths.values()) * STORED[storage_dtype].itemsize + 4 * len(widths) + 16


def vectors(values: Tensor, context_size: int, kind: pa.DataType) -> pa.Array:
    """Vector [rows * context_size, width] as an Arrow column of the extension type, not copied."""
    width = values.shape[1]
    values = values.contiguous()
    # NumPy knows no bfloat16 either.
    flat = (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy().reshape(-1)
    inner = pa.ListArray.from_arrays(_offsets(len(values), width), _array(flat))
    return pa.ExtensionArray.from_storage(
        kind, pa.ListArray.from_arrays(_offsets(len(values) // context_size, context_size), inner)
    )


def lists(values: Tensor, context_size: int, kind: pa.DataType) -> pa.Array:
    """Numbers [rows * context_size] as an Arrow column of lists of one length, not copied."""
    return pa.FixedSizeListArray.from_arrays(_array(values.contiguous().numpy()), type=kind)


def _offsets(count: int, step: int) -> pa.Array:
    return _array(np.arange(0, (count + 1) * step, step, dtype=np.int32))


def _array(values: NDArray[Any]) -> pa.Array:
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
