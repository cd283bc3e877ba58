"""The column of a raw shard that holds the text, and its validation."""

import bisect
import json
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2


def choose(schema: pa.Schema, name: str, where: str) -> str:
    """Return the column to tokenize: the named one; without a name `text`, otherwise the only column of strings."""
    if not name:
        strings = [field.name for field in schema if _is_text(field.type)]
        name = "text" if "text" in strings or len(strings) != 1 else strings[0]
    found = existing(schema, name, where).type
    if not _is_text(found) and not pa.types.is_null(found):
        raise wrong_column_error(
            f"Column {name!r} of {where} holds {found}, not text. Set text_column to a column of strings."
        )
    return name


def existing(schema: pa.Schema, name: str, where: str) -> pa.Field:
    """Return the column of that name."""
    if name not in schema.names:
        columns = ", ".join(schema.names)
        raise errors.NotFound(
            f"There is no column {name!r} in {where}; it has: {columns}. Set text_column to one of these.",
            reason="COLUMN_NOT_FOUND",
            metadata={"columns": columns},
        )
    return schema.field(name)


class Origin(NamedTuple):
    """Where the rows of a shard come from."""

    sources: Sequence[tuple[int, str, int]]
    """Sources in order: position of its first row in the shard, name, and position of that row in the source."""
    first_row: int = 0
    """The position in the shard of the first row of a batch."""

    def of_row(self, row: int) -> str:
        """Return where a row of the batch is in its source."""
        place = self.first_row + row
        first, name, source_row = self.sources[bisect.bisect_right([each[0] for each in self.sources], place) - 1]
        return f", which is row {source_row + place - first} of {name}"


def origin(schema: pa.Schema) -> Origin | None:
    """Return the schema's metadata, as described at RawShard in polytok/catalog/v1/tasks.proto; None if invalid."""
    try:
        listed = json.loads((schema.metadata or {}).get(b"polytok.sources", b"null"))
        sources = [(int(position), str(name), int(row)) for position, name, row in listed]
    except (ValueError, TypeError, RecursionError):
        return None
    return Origin(sources) if sources and sources[0][0] == 0 and sources == sorted(sources) else None


class TextColumn:
    """The column of a raw shard that holds the text."""

    def __init__(self, name: str, *, null_allowed: bool = False) -> None:
        """Without a name, use `text`, otherwise the only column of strings."""
        self.name = name
        self._null_allowed = null_allowed

    @property
    def names(self) -> list[str]:
        """The column."""
        return [self.name]

    def check(self, schema: pa.Schema, where: str) -> None:
        """Raise if the column is missing or holds something else."""
        self.name = choose(schema, self.name, where)

    def texts(self, rows: pa.RecordBatch, where: str, first_row: int, read_from: Origin | None = None) -> pa.Array:
        """Return the column as large strings, valid UTF-8; without nulls unless they are allowed."""
        column = rows.column(self.name)
        if column.null_count and not self._null_allowed:
            raise null_error(self.name, where, first_row, int(pc.index(column.is_null(), True).as_py()), read_from)
        return _texts(column, self.name, where, first_row)


def place(name: str, where: str, first_row: int, row: int, read_from: Origin | None) -> str:
    """Return where a value is, in the dataset and in the user's own file."""
    source = read_from.of_row(row) if read_from else ""
    return f"Column {name!r}, row {first_row + row} of {where} (the first row is 0){source}"


def is_null_allowed(parameters: tokenizations_pb2.TokenizationParameters) -> bool:
    """Return whether documents without text are dropped or empty, instead of an error."""
    error = (parameters.NULL_TEXT_UNSPECIFIED, parameters.NULL_TEXT_ERROR)
    return parameters.null_text not in error


def null_error(name: str, where: str, first_row: int, row: int, read_from: Origin | None) -> errors.InvalidArgument:
    """Return the error for a document without text."""
    return wrong_column_error(
        f"{place(name, where, first_row, row, read_from)} has no value. Set null_text to drop such documents or to take"
        " them as empty texts (`--null-text drop` or `--null-text empty` on the command line)."
    )


def _texts(column: pa.Array, name: str, where: str, first_row: int) -> pa.Array:
    strings = column.cast(pa.large_string())
    try:
        strings.validate(full=True)
    except pa.ArrowInvalid as error:
        raise wrong_column_error(
            f"Column {name!r} of {where} holds bytes that are not UTF-8 in rows {first_row} to "
            f"{first_row + len(strings) - 1}. Fix the source and add the dataset again."
        ) from error
    return strings


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def wrong_column_error(message: str) -> errors.InvalidArgument:
    """Return the error for a column of the wrong type."""
    return errors.InvalidArgument(message, reason="COLUMN_INVALID")
