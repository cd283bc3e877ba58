"""Text files: a row a line, in a column `text`."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from services.catalog.ingest.sources import lines, utf8
from services.catalog.ingest.sources.utf8 import Utf8

SCHEMA = pa.schema([("text", pa.string())])


def batches(source: Utf8, name: str) -> Iterator[pa.RecordBatch]:
    r"""Splits at `\n` and `\r\n`, which are taken off; any other character is kept. An empty line is an empty row."""
    for block in lines.blocks(source, name):
        data = block.data.replace(b"\r\n", b"\n") if b"\r" in block.data else block.data
        split = pc.split_pattern(utf8.as_array(data), "\n").flatten().cast(pa.string())
        # What follows the last line end is not a line, unless there is something.
        rows = split.slice(0, len(split) - 1) if data.endswith(b"\n") else split
        yield pa.record_batch([rows], schema=SCHEMA)
