"""Objects in rows of JSON stay what their file says: the text of each is kept, as Arrow's type `arrow.json`.

Arrow itself gives one type to all rows: an integer becomes a float because another row has one, keys take the order
of an earlier row, and a null is no longer told from a key that is not there.
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
    """A row is no object of JSON, or one that Python cannot take in."""


class Split(NamedTuple):
    """Rows of which some columns hold objects."""

    names: Collection[str]
    """All columns, in the order in which they occur."""
    objects: Mapping[str, pa.Array]
    """The columns that hold objects, as JSON."""
    rest: bytes
    """The rows without those columns, an object after another with line ends between them."""


def hold(schema: pa.Schema) -> bool:
    """Return whether columns hold objects, by the types that Arrow finds for them."""
    return any(_is_of_objects(field.type) for field in schema)


def split(rows: Iterable[bytes], known: Collection[str]) -> Split:
    """Separate the columns that hold objects, those that are `known` to and others. Raises Wrong.

    What a row says twice under one name counts as it says it last.
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


class Value(NamedTuple):
    """The value of a field."""

    text: str
    """As the file has it."""
    is_of_objects: bool
    """Whether it is an object, or a list with an object somewhere in it."""


def fields(row: str) -> dict[str, Value]:
    """Return the fields of an object. Raises Wrong."""
    found: dict[str, Value] = {}
    place = _passed(row, 0, "{")
    ends = row.startswith("}", place)
    while not ends:
        name, place = _decoded(row, place)
        if not isinstance(name, str):
            raise Wrong("a name that is no string")
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
    """Return the place of what follows blanks."""
    found = _NOT_BLANK.search(row, place)
    return found.start() if found else len(row)


def _passed(row: str, place: int, character: str) -> int:
    """Return the place of what follows a character and blanks; the character may follow blanks."""
    place = _skipped(row, place)
    if not row.startswith(character, place):
        raise Wrong(f"no {character!r}")
    return _skipped(row, place + 1)


def _decoded(row: str, place: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(row, place)
    # Beside what is no JSON: integers of more digits than Python converts, and nesting.
    except (ValueError, RecursionError) as error:
        raise Wrong(str(error)) from error


def _holds_object(value: Any) -> bool:
    """Return whether a value is an object, or a list with one in it, however deep."""
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
