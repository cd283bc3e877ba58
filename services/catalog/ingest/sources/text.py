"""Text files: a row a line, in a column `text`."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from services.catalog.ingest.sources import lines

SCHEMA = pa.schema([("text", pa.string())])


def batches(source: lines.Readable, name: str) -> Iterator[pa.RecordBatch]:
    r"""Splits at `\n` and `\r\n`, which are taken off; any other character is kept. An empty line is an empty row."""
    for block in lines.blocks(source, name):
        data = block.data.replace(b"\r\n", b"\n") if b"\r\n" in block.data else block.data
        split = pc.split_pattern(pa.array([data], pa.string()), "\n").flatten()
        # What follows the last line end is not a line, unless there is something.
        rows = split.slice(0, len(split) - 1) if data.endswith(b"\n") else split
        yield pa.record_batch([rows], schema=SCHEMA)
