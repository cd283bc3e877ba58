"""Parquet files."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.catalog.ingest import failures
from services.catalog.ingest.sources import content
from services.catalog.ingest.sources.raw import RawFile

_READ_BYTES = 4 << 20
_READ_ROWS = 256
"""Rows decoded at a time, at most: a page of a dictionary can repeat a long value in every one of them."""
_BUFFER_BYTES = 1 << 20
_PAGE_BYTES = 192 << 20
"""The largest page that is read: Arrow holds a page packed, unpacked and, of a dictionary, once more."""
_HEADER_BYTES = 32


def batches(raw: RawFile) -> Iterator[pa.RecordBatch]:
    """Record batches, row group after row group; an empty one first, for the columns."""
    with content.explained(raw.name, "Parquet"):
        # With a buffer, a column of a row group is read page by page and not at once.
        file = pq.ParquetFile(pa.PythonFile(raw, mode="r"), buffer_size=_BUFFER_BYTES, pre_buffer=False)
        yield pa.RecordBatch.from_pylist([], file.schema_arrow)
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            _check_pages(raw, about, group)
            row_bytes = about.total_byte_size // max(about.num_rows, 1) + 1
            rows = max(1, min(_READ_ROWS, _READ_BYTES // row_bytes))
            for batch in file.iter_batches(rows, row_groups=[group], use_threads=False):
                content.validate(batch, raw.name)
                yield batch


def _check_pages(raw: RawFile, about: Any, group: int) -> None:
    """Refuses pages that do not fit the memory. Writers cut pages by rows, so that very long ones make huge pages."""
    for column in (about.column(place) for place in range(about.num_columns)):
        if column.total_uncompressed_size <= _PAGE_BYTES:
            continue
        for offset in {column.dictionary_page_offset or column.data_page_offset, column.data_page_offset}:
            raw.seek(offset)
            size = _page_bytes(raw.read(_HEADER_BYTES))
            if size > _PAGE_BYTES:
                raise failures.invalid(
                    f"{raw.name}, column {column.path_in_schema!r} has a page of {size >> 20} MiB in row group {group};"
                    f" {_PAGE_BYTES >> 20} MiB is the most. Write it again with smaller row groups."
                )


def _page_bytes(header: bytes) -> int:
    """Uncompressed bytes of a page: the second field of its header, in Thrift's compact protocol."""
    values = []
    place = 0
    for _ in range(2):
        # One byte tells the field and its type; the value is a zigzag varint.
        place, value, shift = place + 1, 0, 0
        while True:
            byte = header[place]
            value |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
            if byte < 0x80:
                break
        values.append(value >> 1)
    return values[1]
