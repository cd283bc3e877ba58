"""JSON that is not one object per line: an array of objects, an object with such an array in a field, or objects.

Rows are read in a stream, however large the document is.
"""

import enum
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from polytok import errors
from services.catalog.ingest import limits
from services.catalog.ingest.sources import json_rows, json_scan
from services.catalog.ingest.sources.utf8 import Utf8

_NAMES_SHOWN = 10
_KINDS = {b"[": "an array", b'"': "a string", b"t": "a boolean", b"f": "a boolean", b"n": "null", b"": "nothing"}


class Shape(enum.Enum):
    """What a JSON file is."""

    LINES = enum.auto()
    """One object per line."""
    OBJECTS = enum.auto()
    """Objects, one after another over any number of lines. Each is a row."""
    DOCUMENT = enum.auto()
    """An array of rows, or an object with one."""


def batches(source: Utf8, name: str, field: str, untyped: set[str]) -> Iterator[pa.RecordBatch]:
    """Yield record batches of the array, or of the array in this field; without a name, of the only array field."""
    return json_rows.batches(_blocks(_rows(json_scan.Scanner(source, name), field)), name, untyped)


def batches_of_objects(source: Utf8, name: str, untyped: set[str]) -> Iterator[pa.RecordBatch]:
    """Yield record batches of objects that follow one another."""
    return json_rows.batches(_blocks(_objects(json_scan.Scanner(source, name))), name, untyped)


def detect(source: Utf8, name: str) -> Shape:
    """Return what a file is, by its first object and what follows it. What is not valid is a document."""
    scanner = json_scan.Scanner(source, name)
    if scanner.peek() != b"{":
        return Shape.DOCUMENT
    try:
        first = scanner.value()
        value = json.loads(first)
    except (errors.InvalidArgument, ValueError, RecursionError):
        return Shape.DOCUMENT
    following = scanner.peek()
    if following and b"\n" not in first:
        return Shape.LINES
    if following:
        return Shape.OBJECTS if following == b"{" else Shape.DOCUMENT
    return Shape.DOCUMENT if any(map(_is_of_rows, value.values())) else Shape.OBJECTS


def _is_of_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _objects(scanner: json_scan.Scanner) -> Iterator[tuple[int, bytes]]:
    """Yield consecutive objects, each with its line."""
    while begin := scanner.peek():
        if begin != b"{":
            raise scanner.wrong(f"expected an object, found {_kind(begin)}. Write only objects, one after another.")
        line = scanner.line
        yield line, scanner.value()


def _rows(scanner: json_scan.Scanner, field: str) -> Iterator[tuple[int, bytes]]:
    """Yield the objects, each with its line."""
    begin = scanner.peek()
    if not begin:
        return
    if begin == b"{":
        yield from _of_fields(scanner, field)
    elif begin != b"[":
        raise scanner.wrong("expected an array of objects, or an object with such a field. Name another format.")
    elif field:
        raise scanner.wrong(f"the file is an array and has no field {field!r}. Omit json_field.")
    else:
        scanner.take(b"[")
        yield from _of_array(scanner)
    if scanner.peek():
        raise scanner.wrong(
            "unexpected content after the array or object. Write the rows as one array, or one object per line."
        )


def _of_array(scanner: json_scan.Scanner) -> Iterator[tuple[int, bytes]]:
    """Yield the objects of an array whose opening bracket has been read."""
    if scanner.peek() == b"]":
        scanner.take(b"]")
        return
    while True:
        if (begin := scanner.peek()) != b"{":
            raise scanner.wrong(
                f"expected an object as array element, found {_kind(begin)}."
                " Write each row as an object with the names of its columns."
            )
        line = scanner.line
        yield line, scanner.value()
        if scanner.take(b",", b"]") == b"]":
            return


def _of_fields(scanner: json_scan.Scanner, field: str) -> Iterator[tuple[int, bytes]]:
    """Yield the objects of the one field that contains them."""
    scanner.take(b"{")
    found = ""
    names: list[str] = []
    ended = scanner.peek() == b"}" and scanner.take(b"}") == b"}"
    while not ended:
        name = _field_name(scanner)
        names = [*names, name][:_NAMES_SHOWN]
        if _holds_rows(scanner, name, field):
            if found:
                raise scanner.wrong(
                    f"two fields contain lists of objects, {found!r} and {name!r}. Set json_field to one of them."
                )
            found = name
            yield from _of_array(scanner)
        ended = scanner.take(b",", b"}") == b"}"
    if not found:
        lacks = f"without a field {field!r}" if field else "in which no field contains a list of objects"
        raise scanner.wrong(
            f"the file is an object {lacks}; its fields: {', '.join(map(repr, names)) or 'none'}."
            " Set json_field to the one with the rows."
        )


def _field_name(scanner: json_scan.Scanner) -> str:
    if scanner.peek() != b'"':
        raise scanner.wrong("expected a quoted field name. Fix the file.")
    try:
        name = str(json.loads(scanner.value()))
    except json.JSONDecodeError as error:
        raise scanner.wrong(f"the name of a field is not valid JSON ({error.msg}). Fix the file.") from error
    scanner.take(b":")
    return name


def _holds_rows(scanner: json_scan.Scanner, name: str, field: str) -> bool:
    """Move to the first row if the value here is the list of rows, else past the value."""
    if field and name != field:
        scanner.skip()
        return False
    begin = scanner.peek()
    if begin == b"[":
        scanner.take(b"[")
        if scanner.peek() == b"{" or field:
            return True
        scanner.skip(within=1)
        return False
    if field:
        raise scanner.wrong(f"the field {field!r} is not an array of rows. Set json_field to another field.")
    scanner.skip()
    return False


def _kind(begin: bytes) -> str:
    return _KINDS.get(begin) or ("a number" if begin in b"-0123456789" else repr(begin.decode(errors="replace")))


def _blocks(rows: Iterator[tuple[int, bytes]]) -> Iterator[json_rows.Block]:
    gathered: list[tuple[int, bytes]] = []
    size = 0
    for row in rows:
        gathered.append(row)
        size += len(row[1])
        if size >= limits.BLOCK_BYTES or len(gathered) >= limits.BATCH_ROWS:
            yield _block(gathered)
            gathered, size = [], 0
    if gathered:
        yield _block(gathered)


def _block(rows: list[tuple[int, bytes]]) -> json_rows.Block:
    data = b"\n".join(text for _, text in rows) + b"\n"
    return json_rows.Block(data, rows[0][0], rows[-1][0], lambda: rows, multiline=True)
