"""JSON as one document: an array of objects, or an object with such an array in one of its fields.

Rows are read as they pass, however large the document is.
"""

import json
from collections.abc import Iterator

import pyarrow as pa

from services.catalog.ingest import limits
from services.catalog.ingest.sources import json_rows, json_scan
from services.catalog.ingest.sources.utf8 import Utf8

_NAMES_SHOWN = 10
_KINDS = {b"[": "an array", b'"': "a string", b"t": "a boolean", b"f": "a boolean", b"n": "null", b"": "nothing"}


def batches(source: Utf8, name: str, field: str) -> Iterator[pa.RecordBatch]:
    """Record batches of the array, or of the array in this field; without a name, of the only one there is."""
    return json_rows.batches(_blocks(_rows(json_scan.Scanner(source, name), field)), name)


def is_lines(source: Utf8, name: str) -> bool:
    """Return whether these are JSON lines in truth: an object on the first line, and something after it."""
    scanner = json_scan.Scanner(source, name)
    if scanner.peek() != b"{":
        return False
    try:
        first = scanner.value()
    except json_scan.TooLong:
        return False
    return b"\n" not in first and scanner.peek() != b""


def _rows(scanner: json_scan.Scanner, field: str) -> Iterator[tuple[int, bytes]]:
    """Yield the objects, each with its line."""
    begin = scanner.peek()
    if not begin:
        return
    if begin == b"{":
        yield from _of_fields(scanner, field)
    elif begin != b"[":
        raise scanner.wrong("JSON rows are an array of objects, or stand in a field of an object. Name another format.")
    elif field:
        raise scanner.wrong(f"the file is an array, and has no field {field!r}. Leave json_field out.")
    else:
        scanner.take(b"[")
        yield from _of_array(scanner)
    if scanner.peek():
        raise scanner.wrong(
            "something follows the end of the array or object. Write the rows as one array, or one object a line."
        )


def _of_array(scanner: json_scan.Scanner) -> Iterator[tuple[int, bytes]]:
    """Yield the objects of an array whose opening bracket has passed."""
    if scanner.peek() == b"]":
        scanner.take(b"]")
        return
    while True:
        if (begin := scanner.peek()) != b"{":
            raise scanner.wrong(
                f"each element should be an object, and here is {_kind(begin)}."
                " Write each row as an object, with the names of its columns."
            )
        line = scanner.line
        yield line, scanner.value()
        if scanner.take(b",", b"]") == b"]":
            return


def _of_fields(scanner: json_scan.Scanner, field: str) -> Iterator[tuple[int, bytes]]:
    """Yield the objects of the one field that holds them."""
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
                    f"two fields hold lists of objects, {found!r} and {name!r}. Name one of them as json_field."
                )
            found = name
            yield from _of_array(scanner)
        ended = scanner.take(b",", b"}") == b"}"
    if not found:
        lacks = f"without a field {field!r}" if field else "in which no field holds a list of objects"
        raise scanner.wrong(
            f"the file is an object {lacks}; its fields: {', '.join(map(repr, names)) or 'none'}."
            " Name the one with the rows as json_field, or, if the object itself is a row, the format jsonl."
        )


def _field_name(scanner: json_scan.Scanner) -> str:
    if scanner.peek() != b'"':
        raise scanner.wrong("there should be the name of a field in quotation marks. Mend the file.")
    try:
        name = str(json.loads(scanner.value()))
    except json.JSONDecodeError as error:
        raise scanner.wrong(f"the name of a field is not JSON ({error.msg}). Mend the file.") from error
    scanner.take(b":")
    return name


def _holds_rows(scanner: json_scan.Scanner, name: str, field: str) -> bool:
    """Go to the first row if the value here is the list of rows; past the value if not."""
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
        raise scanner.wrong(f"the field {field!r} is to hold the rows, and is no array. Name another as json_field.")
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
