"""Rows of a tokenization as flat arrays: no Python list of ids between the Arrow file and the model."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polytok import errors

IDS = "input_ids"
MASK = "attention_mask"
_ROWS_AT_ONCE = 1 << 14


class Ragged(NamedTuple):
    """Concatenated sequences."""

    values: NDArray[np.int64]
    """Token ids of all of them."""
    lengths: NDArray[np.int64]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each begins, and the last ends."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])


class TokenRows:
    """A `datasets.Dataset` or `pyarrow.Table` with a column of token ids and optionally one of attention masks.

    Masked tokens are left out wherever they are, and a row ends after `context_size` tokens (0: no limit). For a model
    with positions 0, 1, 2, … over the remaining tokens, this equals running it over the padded row with the mask.
    """

    def __init__(self, dataset: Any, context_size: int = 0) -> None:
        columns = dataset.column_names
        if IDS not in columns:
            raise errors.InvalidArgument(
                f"The tokenization has no column {IDS!r}; it has {', '.join(columns)}.", reason="COLUMN_NOT_FOUND"
            )
        self._columns = [IDS, *([MASK] if MASK in columns else [])]
        arrow = isinstance(dataset, pa.Table)
        self._source: Any = dataset if arrow else dataset.select_columns(self._columns).with_format("arrow")
        self._context_size = context_size

    def __len__(self) -> int:
        return len(self._source)

    def read(self, first: int, count: int) -> Ragged:
        """Return the rows starting with `first`, or fewer at the end."""
        table = self._slice(first, count)
        values, lengths = _flat(table[IDS], IDS)
        if len(self._columns) > 1:
            marks, mask_lengths = _flat(table[MASK], MASK)
            if not np.array_equal(lengths, mask_lengths):
                raise errors.InvalidArgument(
                    f"The columns {IDS!r} and {MASK!r} differ in length in rows {first} to "
                    f"{first + count - 1}. Tokenize again.",
                    reason="COLUMN_INVALID",
                )
            values, lengths = _kept(values, lengths, marks != 0)
        if self._context_size and len(lengths) and lengths.max() > self._context_size:
            within = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            values, lengths = _kept(values, lengths, within < self._context_size)
        return Ragged(values, lengths)

    def first_ids(self) -> Iterator[NDArray[np.int64]]:
        """Yield the first token of each row that has one, some rows at a time."""
        for first in range(0, len(self), _ROWS_AT_ONCE):
            if len(self._columns) == 1:
                starts = pc.list_slice(self._slice(first, _ROWS_AT_ONCE)[IDS], 0, 1)
                yield _flat(starts, IDS)[0]
                continue
            ragged = self.read(first, _ROWS_AT_ONCE)
            yield ragged.values[ragged.offsets[:-1][ragged.lengths > 0]]

    def _slice(self, first: int, count: int) -> pa.Table:
        if isinstance(self._source, pa.Table):
            return self._source.slice(first, count)
        return self._source[first : min(first + count, len(self))]


def _kept(
    values: NDArray[np.int64], lengths: NDArray[np.int64], keep: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if keep.all():
        return values, lengths
    ends = np.cumsum(lengths)
    counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
    return values[keep], counts[ends] - counts[ends - lengths]


def _flat(column: pa.ChunkedArray, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if array.null_count or not (
        pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type)
    ):
        raise errors.InvalidArgument(
            f"The column {name!r} holds {array.type}{' with nulls' if array.null_count else ''}, not lists of "
            "integers. Tokenize again.",
            reason="COLUMN_INVALID",
        )
    flat = array.flatten()
    if flat.null_count or not pa.types.is_integer(flat.type):
        raise errors.InvalidArgument(
            f"The column {name!r} holds lists of {flat.type}{' with nulls' if flat.null_count else ''}, not "
            "of integers. Tokenize again.",
            reason="COLUMN_INVALID",
        )
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    return flat.to_numpy(zero_copy_only=False).astype(np.int64), lengths.astype(np.int64)
