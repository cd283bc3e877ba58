"""Keep objects in JSON rows as their file has them: as text, of Arrow's type `arrow.json`.

Arrow gives all rows one type: an integer becomes a float because another row has one, keys take the order of an earlier
row, and a null is no longer distinguishable from a missing key.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from services.catalog.ingest import schemas

_DECODER = json.JSONDecoder()
_NOT_BLANK = re.compile(r"[^ \t\r\n]")


class Wrong(ValueError):
    """Raised for a row that is not a JSON object, or one that Python cannot parse."""


class Split(NamedTuple):
    """Rows, some of whose columns hold objects."""

    names: Collection[str]
    """All columns, in order of occurrence."""
    objects: Mapping[str, pa.Array]
    """The columns that hold objects, as JSON."""
    rest: bytes
    """The rows without those columns, one object per line."""


def hold(schema: pa.Schema) -> bool:
    """Return whether columns hold objects, by the types that Arrow infers for them."""
    return any(_is_of_objects(field.type) for field in schema)


def split(rows: Iterable[bytes], known: Collection[str]) -> Split:
    """Separate the columns that hold objects: those in `known`, and others. Raise Wrong.

    If a row repeats a name, its last value counts.
    """
    found = [fields(row.decode()) for row in rows if row.strip()]
    names = dict.fromkeys(name for row in found for name in row)
    objects = dict.fromkeys([*known, *(name for row in found for name, value in row.items() if value.is_of_objects)])
    columns = {name: [row[name].text if name in row else None for row in found] for name in objects}
    rest = ({name: value.text for name, value in row.items() if name not in objects} for row in found)
    return Split(
        [*names, *(name for name in objects if name not in names)],
        {
            name: schemas.json_array(None if text == "null" else text for text in texts)
            for name, texts in columns.items()
        },
        b"\n".join(_object(row) for row in rest) + b"\n",
    )


def mixed(rows: Iterable[bytes], known: pa.Schema) -> set[str]:
    """Return the columns whose values have no common type, in these rows and in `known`. Raise Wrong."""
    kinds = {field.name: _kinds_of_type(field.type) for field in known}
    for row in rows:
        if row.strip():
            for name, (text, _) in fields(row.decode()).items():
                kinds.setdefault(name, set()).update(_kinds_of_value(json.loads(text)))
    return {name for name, found in kinds.items() if _differ(found)}


def _differ(kinds: set[tuple[int, str]]) -> bool:
    known = {(depth, kind) for depth, kind in kinds if kind}
    # An empty list may be one of anything, but not a scalar.
    deepest = max((depth for depth, kind in kinds if not kind), default=0)
    return len(known) > 1 or any(depth < deepest for depth, _ in known)


def _kinds_of_value(value: Any, depth: int = 0) -> set[tuple[int, str]]:
    """Return the kinds of scalars in a value, each with the number of lists around it.

    Null is of any kind. An empty list, or one of nulls, has an empty kind.
    """
    if isinstance(value, list):
        kinds = set[tuple[int, str]]()
        return kinds.union(*(_kinds_of_value(each, depth + 1) for each in value)) or {(depth + 1, "")}
    return set() if value is None else {(depth, _KINDS.get(type(value), "object"))}


_KINDS: Mapping[type, str] = {str: "string", bool: "boolean", int: "number", float: "number"}


def _kinds_of_type(kind: pa.DataType, depth: int = 0) -> set[tuple[int, str]]:
    if pa.types.is_list(kind):
        return _kinds_of_type(kind.value_type, depth + 1) or {(depth + 1, "")}
    if pa.types.is_null(kind) or schemas.is_json(kind):
        return set()
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return {(depth, "number" if number else "boolean" if pa.types.is_boolean(kind) else "string")}


class Value(NamedTuple):
    """The value of a field."""

    text: str
    """As in the file."""
    is_of_objects: bool
    """Whether it is an object, or a list that contains one."""


def fields(row: str) -> dict[str, Value]:
    """Return the fields of an object. Raise Wrong."""
    found: dict[str, Value] = {}
    place = _passed(row, 0, "{")
    ends = row.startswith("}", place)
    while not ends:
        name, place = _decoded(row, place)
        if not isinstance(name, str):
            raise Wrong("a name that is not a string")
        begin = _passed(row, place, ":")
        value, end = _decoded(row, begin)
        text = row[begin:end]
        found[name] = Value(text, "{" in text and _holds_object(value))
        place = _skipped(row, end)
        ends = row.startswith("}", place)
        place = place if ends else _passed(row, place, ",")
    if _passed(row, place, "}") != len(row):
        raise Wrong("extra data")
    return found


def _skipped(row: str, place: int) -> int:
    """Return the position after blanks."""
    found = _NOT_BLANK.search(row, place)
    return found.start() if found else len(row)


def _passed(row: str, place: int, character: str) -> int:
    """Return the position after a character, which blanks may surround."""
    place = _skipped(row, place)
    if not row.startswith(character, place):
        raise Wrong(f"missing {character!r}")
    return _skipped(row, place + 1)


def _decoded(row: str, place: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(row, place)
    # Besides invalid JSON: integers with more digits than Python converts, and nesting.
    except (ValueError, RecursionError) as error:
        raise Wrong(str(error)) from error


def _holds_object(value: Any) -> bool:
    """Return whether a value is an object, or a list that contains one at any depth."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            return True
        if isinstance(value, list):
            left.extend(value)
    return False


def _object(texts: Mapping[str, str]) -> bytes:
    return ("{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items()) + "}").encode()


def _is_of_objects(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_struct(kind))
