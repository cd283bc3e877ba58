"""What Arrow's readers say of a binary file, in words for its owner."""

import contextlib
from collections.abc import Generator

import pyarrow as pa

from services.catalog.ingest import source_errors


@contextlib.contextmanager
def explained(name: str, format_name: str) -> Generator[None]:
    """Turn errors about a file's content into ours. Those about reading it are ours already."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, MemoryError):
            raise
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise source_errors.invalid(
            f"{name} is not whole {format_name} ({said}). It may have been cut off: copy or write it again."
        ) from error


def validate(batch: pa.RecordBatch, name: str) -> None:
    """Refuse values that would be misread later: text that is not UTF-8, offsets that lead nowhere."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        for field, column in zip(batch.schema, batch.columns, strict=True):
            _validate_column(column, field.name, name)
        raise source_errors.invalid(f"{name} holds a damaged record batch ({error}). Write it again.") from error


def _validate_column(column: pa.Array, column_name: str, name: str) -> None:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        what = "text that is not UTF-8" if "UTF8" in str(error) else f"damaged values ({error})"
        raise source_errors.invalid(f"{name}, column {column_name!r} holds {what}. Write the file again.") from error
