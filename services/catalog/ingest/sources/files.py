"""One file of a source, as record batches."""

import contextlib
from collections.abc import Callable, Collection, Iterator

import pyarrow as pa

from polytok.catalog.v1 import tasks_pb2
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import source_errors
from services.catalog.ingest.sources import arrow, delimited, formats, json_document, json_lines, parquet, text
from services.catalog.ingest.sources.compression import Decompressed, Readable
from services.catalog.ingest.sources.json_document import Shape
from services.catalog.ingest.sources.raw_file import RawFile
from services.catalog.ingest.sources.utf8 import Utf8

_HEAD_BYTES = 16


class SourceFile:
    """A file, reopened for each reading of it."""

    def __init__(self, part: tasks_pb2.FilePart, columns: Collection[str] = (), untyped: Collection[str] = ()) -> None:
        """Read at least these columns, or all; those in `untyped` without a type, as text or JSON."""
        self.name = source_errors.redact_uri(part.uri)
        """The name in messages."""
        self._uri = part.uri
        self._format = part.format
        self._by_name = formats.of_name(part.uri)
        self._total = part.size_bytes
        self._raw: RawFile | None = None
        self._part = part
        self._columns = columns
        self._untyped = set(untyped)
        delimiter = part.delimiter or ("\t" if self._by_name.tabs else ",")
        self._delimited = delimited.Delimited(self._decompressed, self.name, delimiter, untyped)

    @property
    def has_types(self) -> bool:
        """Whether the file itself says which type a column has; otherwise types are inferred from values."""
        return self._format in (FileSource.FORMAT_PARQUET, FileSource.FORMAT_ARROW)

    def progress(self) -> tuple[int, int]:
        """Return bytes read and total bytes, as stored."""
        done = self._raw.bytes_read if self._raw else 0
        return (min(done, self._total) if self._total else done), self._total

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield its rows. May raise StartAgain, after which it is called once more."""
        try:
            yield from self._readers()[self._format]()
        finally:
            self._close()

    def _readers(self) -> dict[formats.Format, Callable[[], Iterator[pa.RecordBatch]]]:
        return {
            FileSource.FORMAT_JSONL: self._json_lines,
            FileSource.FORMAT_JSON: self._json,
            FileSource.FORMAT_TEXT: self._rows_of_text,
            FileSource.FORMAT_CSV: self._delimited.batches,
            FileSource.FORMAT_PARQUET: self._parquet,
            FileSource.FORMAT_ARROW: lambda: arrow.batches(self._decompressed(), self.name),
        }

    def _text(self) -> Utf8:
        return Utf8(self._decompressed(), self.name)

    def _rows_of_text(self) -> Iterator[pa.RecordBatch]:
        if self._part.text_rows == FileSource.TEXT_ROWS_FILE:
            return text.whole(self._text(), self.name)
        if self._part.text_rows == FileSource.TEXT_ROWS_SEPARATED:
            return text.by_separator(self._text(), self.name, self._part.text_separator)
        return text.by_line(self._text(), self.name)

    def _json(self) -> Iterator[pa.RecordBatch]:
        shape = Shape.DOCUMENT if self._part.json_field else json_document.detect(self._text(), self.name)
        if shape is Shape.DOCUMENT:
            return json_document.batches(self._text(), self.name, self._part.json_field, self._untyped)
        if shape is Shape.OBJECTS:
            return json_document.batches_of_objects(self._text(), self.name, self._untyped)
        # Many files named .json hold JSON lines.
        return json_lines.batches(self._text(), self.name, self._untyped)

    def _json_lines(self) -> Iterator[pa.RecordBatch]:
        if json_document.detect(self._text(), self.name) is Shape.OBJECTS:
            return json_document.batches_of_objects(self._text(), self.name, self._untyped)
        return json_lines.batches(self._text(), self.name, self._untyped)

    def _parquet(self) -> Iterator[pa.RecordBatch]:
        if self._by_name.compression:
            raise source_errors.invalid(
                f"{self.name}: Parquet cannot be read through {self._by_name.compression}. Decompress it."
            )
        raw = self._open()
        formats.check_content(self.name, self._format, raw.head(_HEAD_BYTES))
        return parquet.batches(raw, self._columns)

    def _decompressed(self) -> Readable:
        raw = self._open()
        if not self._by_name.compression:
            formats.check_content(self.name, self._format, raw.head(_HEAD_BYTES))
            return raw
        if not raw.head(1):
            # No compressor writes an empty file: this one is incomplete.
            raise source_errors.invalid(
                f"{self.name} is not valid {self._by_name.compression} data: the file is empty. Copy it again."
            )
        unpacked = Decompressed(raw, self._by_name.compression)
        formats.check_content(self.name, self._format, unpacked.head(_HEAD_BYTES))
        return unpacked

    def _open(self) -> RawFile:
        self._close()
        self._raw = RawFile(self._uri)
        return self._raw

    def _close(self) -> None:
        if self._raw is not None:
            with contextlib.suppress(OSError):
                self._raw.close()
