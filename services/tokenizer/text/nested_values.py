"""Values of nested columns as Python has them, as far as the column still tells what they were.

What is kept as JSON is what `json.loads` makes of it: integers, the order of keys and explicit nulls stay. Arrow's own
structs have every field in every row, so there a null counts as a field that is not there.
"""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

Decoder = Callable[[Any], Any]
"""Turns a value of a column, as `to_pylist` has it and not None, into that of its row.

Raises ValueError or RecursionError for what is no JSON that can be read.
"""


def decoder(kind: pa.DataType) -> Decoder:
    """Return what decodes values of a type."""
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
    """Return whether values are texts of JSON, marked as such."""
    return isinstance(kind, pa.JsonType)
