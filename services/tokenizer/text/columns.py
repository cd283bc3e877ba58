"""The column of a raw shard that holds the text, and its validation."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from polytok import errors


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
    """The source of a shard's rows, and the source's row that is the shard's first."""

    name: str
    first_row: int


def origin(schema: pa.Schema) -> Origin | None:
    """Return the schema's metadata, as described at RawShard in polytok/catalog/v1/tasks.proto."""
    about = schema.metadata or {}
    row = about.get(b"polytok.source_row", b"")
    name = about.get(b"polytok.source", b"").decode(errors="replace")
    return Origin(name, int(row)) if name and row.isdigit() else None


class TextColumn:
    """The column of a raw shard that holds the text."""

    def __init__(self, name: str) -> None:
        """Without a name, use `text`, otherwise the only column of strings."""
        self.name = name

    @property
    def names(self) -> list[str]:
        """The column."""
        return [self.name]

    def check(self, schema: pa.Schema, where: str) -> None:
        """Raise if the column is missing or holds something else."""
        self.name = choose(schema, self.name, where)

    def texts(self, rows: pa.RecordBatch, where: str, first_row: int, read_from: Origin | None = None) -> pa.Array:
        """Return the column as large strings without nulls, valid UTF-8."""
        return texts(rows.column(self.name), self.name, where, first_row, read_from)


def place(name: str, where: str, first_row: int, row: int, read_from: Origin | None) -> str:
    """Return where a value is, in the dataset and in the user's own file."""
    source = f", which is row {read_from.first_row + row} of {read_from.name}" if read_from else ""
    return f"Column {name!r}, row {first_row + row} of {where} (the first row is 0){source}"


def texts(column: pa.Array, name: str, where: str, first_row: int, read_from: Origin | None = None) -> pa.Array:
    """Return the column as large strings without nulls, valid UTF-8."""
    if column.null_count:
        place = int(pc.index(column.is_null(), pa.scalar(True)).as_py())
        source = f", which is row {read_from.first_row + place} of {read_from.name}" if read_from else ""
        raise wrong_column_error(
            f"Column {name!r} has no value in row {first_row + place} of {where} (the first row is "
            f"0){source}. Remove such rows from the source, or give them an empty text, and add "
            "the dataset again."
        )
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
