"""Errors of Arrow's readers about a binary file, worded for the owner of the file."""

import contextlib
from collections.abc import Generator

import pyarrow as pa

from services.catalog.ingest import source_errors


@contextlib.contextmanager
def explained(name: str, format_name: str) -> Generator[None]:
    """Convert errors about a file's content to ours. Errors of reading it already are."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, MemoryError):
            raise
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise source_errors.invalid(
            f"{name} is not valid {format_name} ({said}). It may be truncated: copy or write it again."
        ) from error


def validate(batch: pa.RecordBatch, name: str) -> None:
    """Reject values that would be misread later: text that is not UTF-8, invalid offsets."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        for field, column in zip(batch.schema, batch.columns, strict=True):
            _validate_column(column, field.name, name)
        raise source_errors.invalid(f"{name} contains a damaged record batch ({error}). Write it again.") from error


def _validate_column(column: pa.Array, column_name: str, name: str) -> None:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        what = "text that is not UTF-8" if "UTF8" in str(error) else f"damaged values ({error})"
        raise source_errors.invalid(f"{name}, column {column_name!r} contains {what}. Write the file again.") from error
