"""Text files: rows in a column `text`, one per line, per file, or per section between separators."""

import re
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from services.catalog.ingest import limits, source_errors
from services.catalog.ingest.sources import line_blocks, utf8
from services.catalog.ingest.sources.utf8 import Utf8

SCHEMA = pa.schema([("text", pa.string())])

_BLANK_LINES = re.compile(rb"\r?\n(?:\r?\n)+")
_LINE_ENDS_FIRST = re.compile(rb"\A(?:\r?\n)+")
_LINE_ENDS_LAST = re.compile(rb"(?:\r?\n)+\Z")
_LINE_ENDS = frozenset({b"", b"\n", b"\r\n"})


def by_line(source: Utf8, name: str) -> Iterator[pa.RecordBatch]:
    r"""Split at `\n` and `\r\n`, which are removed; all other characters are kept. An empty line is an empty row."""
    for block in line_blocks.blocks(source, name):
        data = block.data.replace(b"\r\n", b"\n") if b"\r" in block.data else block.data
        split = pc.split_pattern(utf8.as_array(data), "\n").flatten().cast(pa.string())
        # What follows the last line ending is a line only if it is not empty.
        rows = split.slice(0, len(split) - 1) if data.endswith(b"\n") else split
        yield pa.record_batch([rows], schema=SCHEMA)


def whole(source: Utf8, name: str) -> Iterator[pa.RecordBatch]:
    """Yield one row with every character of the file; none if the file is empty."""
    chunks: list[bytes] = []
    size = 0
    while chunk := source.read(limits.BLOCK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > limits.ROW_BYTES:
            raise source_errors.invalid(
                f"{name} is longer than the row limit of {limits.ROW_BYTES >> 20} MiB."
                " Split the file, or make one row per line or per section between separators."
            )
    return _batches([b"".join(chunks)] if size else [])


def by_separator(source: Utf8, name: str, separator: str) -> Iterator[pa.RecordBatch]:
    """Yield the sections between separators, without empty ones and without a line ending after the last.

    Without a separator, rows are the paragraphs between blank lines.
    """
    if separator:
        pieces = _Pieces(source, name, re.compile(re.escape(separator.encode())), len(separator.encode()))
        return _batches(piece for piece, is_last in pieces if piece and not (is_last and piece in _LINE_ENDS))
    return _batches(
        paragraph
        for piece, _ in _Pieces(source, name, _BLANK_LINES, None)
        if (paragraph := _LINE_ENDS_LAST.sub(b"", _LINE_ENDS_FIRST.sub(b"", piece)))
    )


class _Pieces:
    """Yield the sections between separators, and whether each piece is its section's last."""

    def __init__(self, source: Utf8, name: str, pattern: re.Pattern[bytes], length: int | None) -> None:
        self._source = source
        self._name = name
        self._pattern = pattern
        self._length = length
        """Return the length of a separator; None if data read later may extend it."""
        self._line = 1
        self._data = b""

    def __iter__(self) -> Iterator[tuple[bytes, bool]]:
        searched = 0
        while chunk := self._source.read(limits.BLOCK_BYTES):
            self._data += chunk
            begin = 0
            for found in self._pattern.finditer(self._data, searched):
                if self._length is None and found.end() == len(self._data):
                    break
                self._check_length(begin, found.start())
                yield self._data[begin : found.start()], False
                self._line += self._data.count(b"\n", begin, found.end())
                begin = found.end()
            self._data = self._data[begin:]
            self._check_length(0, len(self._data))
            searched = self._unsearched()
        yield self._data, True

    def _unsearched(self) -> int:
        """Return where a separator may begin that continues in the data read next."""
        if self._length is not None:
            return max(0, len(self._data) - self._length + 1)
        return len(self._data.rstrip(b"\r\n"))

    def _check_length(self, begin: int, end: int) -> None:
        if end - begin > limits.ROW_BYTES:
            raise source_errors.invalid(
                f"{self._name}: the text from line {self._line} on has no separator within the row limit of"
                f" {limits.ROW_BYTES >> 20} MiB. Split it, or name the separator that it uses."
            )


def _batches(rows: Iterable[bytes]) -> Iterator[pa.RecordBatch]:
    gathered: list[bytes] = []
    size = 0
    for row in rows:
        gathered.append(row)
        size += len(row)
        if size >= limits.BLOCK_BYTES or len(gathered) >= limits.BATCH_ROWS:
            yield _batch(gathered)
            gathered, size = [], 0
    if gathered:
        yield _batch(gathered)


def _batch(rows: list[bytes]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(rows, pa.binary()).cast(pa.string())], schema=SCHEMA)
