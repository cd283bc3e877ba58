"""JSON objects as rows, wherever they are in their file.

Arrow parses block after block. Each block is parsed with the columns known so far, so that the result does not depend
on where blocks end; a block that does not fit is parsed again with columns that fit both. A column whose values have no
common type becomes JSON, from the first row on.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.json as arrow_json

from polytok import errors
from services.catalog.ingest import schemas, source_errors
from services.catalog.ingest.sources import json_objects
from services.catalog.ingest.sources.untyped import StartAgain
from services.runtime import memory_limit

ONE_A_LINE = "Write one object per line, as `jq -c` does, or set the format to json if the file is one array."
_ROW = re.compile(r"in row (\d+)$")
_OBJECT_BYTES = 512 << 20
"""Limit for the memory that the objects of a block of rows may take in Python."""
_ADVICE = "Fix the line, or name another format."


class Block(NamedTuple):
    """Some objects, separated by line endings."""

    data: bytes
    first_line: int
    """Line number of the first object, from 1."""
    last_line: int
    """Line number of the last object."""
    rows: Callable[[], Iterable[tuple[int, bytes]]]
    """The objects, each with the number of its first line; blank ones are not rows."""
    multiline: bool
    """Whether an object may span several lines."""


def batches(blocks: Iterable[Block], name: str, untyped: set[str]) -> Iterator[pa.RecordBatch]:
    """Yield record batches, whose columns may grow from one to the next.

    The columns in `untyped` are read as JSON. If values of another column have no common type, that is added, and
    StartAgain raised.
    """
    known = pa.schema([])
    for block in blocks:
        try:
            table = _parse(block, known, name, untyped)
        except (pa.ArrowInvalid, schemas.Differs) as error:
            mixed = _mixed(block, known) - untyped
            if not mixed:
                raise _explained(block, name, str(error)) from error
            untyped |= mixed
            raise StartAgain from error
        known = table.schema
        yield from table.combine_chunks().to_batches()


def _parse(block: Block, known: pa.Schema, name: str, untyped: Collection[str]) -> pa.Table:
    """Raise ArrowInvalid and Differs."""
    kept = {*schemas.json_columns(known), *untyped}
    table = None if kept else _tried(block, known)
    if table is not None and not json_objects.hold(table.schema):
        return _fitted(block, known, table)
    split = _split(block, kept, name)
    if not split.objects:
        return _fitted(block, known, table)
    schemas.check_fits_json(known, split.objects)
    others = pa.schema([field for field in known if field.name not in split.objects])
    plain = block._replace(data=split.rest)
    rest = _fitted(plain, others, _tried(plain, others))
    # A column that is not in these rows is known from earlier ones.
    names = dict.fromkeys([*known.names, *split.names])
    columns = [split.objects[each] if each in split.objects else rest.column(each) for each in names]
    return pa.table(columns, names=list(names))


def _tried(block: Block, known: pa.Schema) -> pa.Table | None:
    try:
        return _read(block, known)
    except pa.ArrowInvalid:
        return None


def _split(block: Block, kept: Collection[str], name: str) -> json_objects.Split:
    try:
        with memory_limit.MemoryLimit(_OBJECT_BYTES).held():
            return json_objects.split((text for _, text in block.rows()), kept)
    except memory_limit.MemoryLimitExceeded as error:
        raise source_errors.invalid(
            f"{name}, lines {block.first_line} to {block.last_line}: the objects take more than {_OBJECT_BYTES >> 20} "
            "MiB of memory. Split the rows, or omit what is not needed."
        ) from error
    except json_objects.Wrong as error:
        raise _explained(block, name, str(error)) from error


def _mixed(block: Block, known: pa.Schema) -> set[str]:
    """Return the columns whose values have no common type, in a block of valid rows and before; none if one is not."""
    try:
        return json_objects.mixed((text for _, text in block.rows()), known)
    except json_objects.Wrong:
        return set()


def _fitted(block: Block, known: pa.Schema, table: pa.Table | None) -> pa.Table:
    """Parse a block; return the result, if any, with the known columns and the new ones."""
    if table is None or table.schema != known:
        # What looks like a date stays text.
        found = schemas.without_times((table if table is not None else _read(block, None)).schema)
        merged = schemas.merged(known, found)
        if table is None or table.schema != merged:
            table = _read(block, merged)
    return table


def _read(block: Block, known: pa.Schema | None) -> pa.Table:
    return arrow_json.read_json(
        pa.BufferReader(block.data),
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(block.data) + 1),
        parse_options=arrow_json.ParseOptions(
            explicit_schema=known, unexpected_field_behavior="infer", newlines_in_values=block.multiline
        ),
    )


def _explained(block: Block, name: str, message: str) -> errors.PolytokError:
    """Find the invalid line: Arrow counts rows, people count lines."""
    rows = []
    for number, text in block.rows():
        if text.strip():
            rows.append(number)
            if wrong := _wrong(text):
                further, problem = wrong
                return source_errors.invalid(f"{name}, line {number + further}: {problem}")
    row = _ROW.search(message)
    place = f"line {rows[int(row[1])]}" if row and int(row[1]) < len(rows) else f"line {block.first_line} or after"
    said = _ROW.sub("", message).removeprefix("JSON parse error: ").strip(" .")
    return source_errors.invalid(f"{name}, {place}: not valid JSON ({said[:200]}). {_ADVICE}")


def _wrong(text: bytes) -> tuple[int, str] | None:
    """Return the problem with a row and how many lines after its first it is; None without a problem."""
    try:
        value = json.loads(text.decode())
    except json.JSONDecodeError as error:
        begun = text.strip() in {b"[", b"{"}
        return (
            error.lineno - 1,
            f"not JSON ({error.msg.removesuffix(' at')} at column {error.colno}). {ONE_A_LINE if begun else _ADVICE}",
        )
    except RecursionError:
        return 0, "nested too deeply. Flatten the object."
    except ValueError as error:
        return 0, f"a number that cannot be read ({str(error).partition(';')[0]}). Write it as a string."
    if not isinstance(value, dict):
        return 0, f"a JSON {_WORDS[type(value)]}, not an object. {ONE_A_LINE}"
    return None


_WORDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
