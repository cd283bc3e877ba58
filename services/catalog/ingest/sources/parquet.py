"""Parquet files."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from services.catalog.ingest.sources import content
from services.catalog.ingest.sources.raw import RawFile

_READ_BYTES = 4 << 20
_READ_ROWS = 256
"""Rows decoded at a time, at most: a page of a dictionary can repeat a long value in every one of them."""
_BUFFER_BYTES = 1 << 20


def batches(raw: RawFile) -> Iterator[pa.RecordBatch]:
    """Record batches, row group after row group; an empty one first, for the columns."""
    with content.explained(raw.name, "Parquet"):
        # With a buffer, a column of a row group is read page by page and not at once.
        file = pq.ParquetFile(pa.PythonFile(raw, mode="r"), buffer_size=_BUFFER_BYTES, pre_buffer=False)
        yield pa.RecordBatch.from_pylist([], file.schema_arrow)
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            row_bytes = about.total_byte_size // max(about.num_rows, 1) + 1
            rows = max(1, min(_READ_ROWS, _READ_BYTES // row_bytes))
            for batch in file.iter_batches(rows, row_groups=[group], use_threads=False):
                content.validate(batch, raw.name)
                yield batch
