"""Parquet files."""

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.catalog.ingest import schemas, source_errors
from services.catalog.ingest.sources import content_validation, parquet_pages
from services.catalog.ingest.sources.raw_file import RawFile
from services.runtime import memory_limit

_READ_BYTES = 4 << 20
_READ_ROWS = 256
"""Maximum number of rows decoded at a time: a dictionary page can repeat a long value in every one of them."""
_BUFFER_BYTES = 1 << 20
_PAGE_BYTES = parquet_pages.PAGE_BYTES
_MEMORY_BYTES = 512 << 20
"""Memory limit for reading a file. Pages are bounded, but small ones may expand to very many values in one row."""


def batches(raw: RawFile, columns: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield record batches of these columns, or all, row group by row group; an empty one first, for the columns."""
    bound = memory_limit.MemoryLimit(_MEMORY_BYTES)
    with content_validation.explained(raw.name, "Parquet"):
        checked = parquet_pages.Checked(raw, _PAGE_BYTES)
        try:
            with bound.held():
                # With a buffer, a column of a row group is read page by page and not as a whole.
                file = pq.ParquetFile(pa.PythonFile(checked, mode="r"), buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except memory_limit.MemoryLimitExceeded as error:
            raise _too_large(raw, "footer") from error
        schema = file.schema_arrow
        if columns and set(columns).issubset(schema.names):
            schema = pa.schema([field for field in schema if field.name in columns], metadata=schema.metadata)
        yield schemas.empty(schema)
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            checked.watch(about, group)
            try:
                yield from _of_group(file, schema.names, about, group, bound, raw.name)
            except memory_limit.MemoryLimitExceeded as error:
                raise _too_large(raw, f"row group {group}") from error


def _of_group(
    file: Any, columns: list[str], about: Any, group: int, bound: memory_limit.MemoryLimit, name: str
) -> Iterator[pa.RecordBatch]:
    row_bytes = about.total_byte_size // max(about.num_rows, 1) + 1
    rows = max(1, min(_READ_ROWS, _READ_BYTES // max(row_bytes, 1)))
    coming = file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
    while True:
        # Not while the caller has the batch: the limit is for reading.
        with bound.held():
            batch = next(coming, None)
        if batch is None:
            return
        content_validation.validate(batch, name)
        yield batch


def _too_large(raw: RawFile, what: str) -> Exception:
    return source_errors.invalid(
        f"{raw.name}: reading its {what} takes more than {_MEMORY_BYTES >> 20} MiB of memory."
        " Rewrite it with smaller row groups and pages, without dictionaries, and with shorter lists in each row."
    )
