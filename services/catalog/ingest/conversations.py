"""Find the columns of JSON that hold conversations: their type does not say so, but their values do."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from services.catalog.ingest import schemas

_MOST_VALUES = 1000
"""After this many values that are lists of other objects, a column is not examined any more."""
_TEXTS = frozenset({"role", "from", "value"})
_FORMS = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
"""Keys of turns, in OpenAI's form and ShareGPT's; not every turn has all of them."""
_FIELDS = frozenset().union(*_FORMS)


class Finder:
    """Examines the values of JSON columns until their kind is clear."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        """The columns that hold conversations."""
        self._fields: dict[str, set[str]] = {}
        self._left: dict[str, int] = {}

    def look(self, batch: pa.RecordBatch) -> None:
        """Examine more rows."""
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if field.name not in self.found and _is_json(field.type):
                self._look(field.name, column)

    def _look(self, name: str, column: pa.Array) -> None:
        fields = self._fields.setdefault(name, set())
        for value in _values(column):
            left = self._left.setdefault(name, _MOST_VALUES)
            if not left:
                return
            if not isinstance(value, list) or not all(turn is None or isinstance(turn, dict) for turn in value):
                self._left[name] = 0
                return
            self._left[name] -= 1
            for turn in filter(None, value):
                fields.update(key for key in _FIELDS & turn.keys() if key not in _TEXTS or isinstance(turn[key], str))
            if any(form <= fields for form in _FORMS):
                self.found.add(name)
                return


def _is_json(kind: pa.DataType) -> bool:
    return schemas.is_json(kind.value_type if pa.types.is_list(kind) else kind)


def _values(column: pa.Array) -> Iterator[Any]:
    """Yield the non-null values, as far as they are JSON."""
    for value in column:
        held = value.as_py()
        if held is not None:
            texts = held if isinstance(held, list) else [held]
            try:
                decoded = [None if text is None else json.loads(text) for text in texts]
            except (ValueError, RecursionError):
                # Readers of the column report where it is.
                continue
            yield decoded if isinstance(held, list) else decoded[0]
