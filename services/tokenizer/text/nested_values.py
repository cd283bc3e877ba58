"""Values of nested columns as Python objects, as far as the column preserves them.

Values kept as JSON are parsed by `json.loads`: integers, the order of keys and explicit nulls are preserved. Arrow's
own structs have every field in every row, so there a null counts as a missing field.
"""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

Decoder = Callable[[Any], Any]
"""Decodes a value of a column, as returned by `to_pylist` and not None.

Raises ValueError or RecursionError for invalid JSON.
"""


def decoder(kind: pa.DataType) -> Decoder:
    """Return the decoder for values of a type."""
    if is_json(kind):
        return json.loads
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        item = decoder(kind.value_type)
        return lambda values: [None if value is None else item(value) for value in values]
    if pa.types.is_struct(kind):
        fields = {field.name: decoder(field.type) for field in kind}
        return lambda values: {name: fields[name](value) for name, value in values.items() if value is not None}
    return lambda value: value


def is_json(kind: pa.DataType) -> bool:
    """Return whether values are JSON texts, marked as such."""
    return isinstance(kind, pa.JsonType)
