"""JSON lines: one object per line."""

from collections.abc import Iterator

import pyarrow as pa

from services.catalog.ingest.sources import json_rows, line_blocks
from services.catalog.ingest.sources.utf8 import Utf8


def batches(source: Utf8, name: str, untyped: set[str]) -> Iterator[pa.RecordBatch]:
    """Yield record batches; see json_rows."""
    return json_rows.batches(map(_block, line_blocks.blocks(source, name)), name, untyped)


def _block(block: line_blocks.Block) -> json_rows.Block:
    last_line = block.first_line + block.data.count(b"\n") - block.data.endswith(b"\n")

    def rows() -> Iterator[tuple[int, bytes]]:
        return enumerate(block.data.split(b"\n"), block.first_line)

    return json_rows.Block(block.data, block.first_line, last_line, rows, multiline=False)
