"""Comma-separated values (RFC 4180) with a header, and tab-separated ones.

A column is int64, double or bool if all its cells are, and text otherwise. Cells that look like dates stay text, and
text columns keep every cell as written, including "NA" and empty cells.
"""

import re
from collections.abc import Callable, Collection, Iterator

import pyarrow as pa
import pyarrow.csv as arrow_csv

from polytok import errors
from services.catalog.ingest import limits, source_errors
from services.catalog.ingest.sources.compression import Readable
from services.catalog.ingest.sources.untyped import StartAgain
from services.catalog.ingest.sources.utf8 import Utf8

_GUESS_BYTES = 1 << 20
_TAIL_BYTES = 4096
_KEPT = frozenset({pa.int64(), pa.float64(), pa.bool_()})
_CELL = re.compile(r"In CSV column #(\d+): .*conversion error")
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


class _Text(Utf8):
    """The text, and what is needed to detect that it ends too early."""

    def __init__(self, inner: Readable, name: str) -> None:
        super().__init__(inner, name)
        self._quotes = 0
        self._tail = b""

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        chunk = super().read(size)
        self._quotes += chunk.count(b'"')
        self._tail = (self._tail + chunk[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        return chunk

    def ended_within(self, cell: pa.Scalar) -> bool:
        """Return whether the file ends inside an open quotation, which Arrow accepts."""
        if self._quotes % 2 == 0 or cell.type != pa.string():
            return False
        written = cell.as_buffer().to_pybytes().replace(b'"', b'""')[-_TAIL_BYTES:]
        return self._tail.endswith(b'"' + written) or self._tail == written


class _Blank(Exception):
    """Raised when there is not even a header with a line ending."""


class Delimited:
    """One file. Types are inferred from its beginning and corrected, at most twice per column, by starting again."""

    def __init__(
        self, open_bytes: Callable[[], Readable], name: str, delimiter: str, untyped: Collection[str] = ()
    ) -> None:
        """Read the columns in `untyped` as text, whatever they hold."""
        self._open_bytes = open_bytes
        self._name = name
        self._delimiter = delimiter
        self._untyped = frozenset(untyped)
        self._types: dict[str, pa.DataType] = {}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield record batches of one schema, an empty one first; none if the file has no line."""
        try:
            self._types = self._types or self._guess()
        except _Blank:
            return
        source = self._open()
        last = None
        try:
            with self._reader(source, limits.CSV_ROW_BYTES, self._types) as reader:
                yield pa.RecordBatch.from_pylist([], reader.schema)
                for batch in reader:
                    if batch.num_rows:
                        last = batch.slice(batch.num_rows - 1)
                    yield batch
        except pa.ArrowInvalid as error:
            raise self._corrected(str(error)) from error
        if last is not None and source.ended_within(last.column(last.num_columns - 1)[0]):
            raise source_errors.invalid(
                f"{self._name} ends inside a quoted cell. Close the quotation, or copy the file again."
            )

    def _open(self) -> _Text:
        return _Text(self._open_bytes(), self._name)

    def _guess(self) -> dict[str, pa.DataType]:
        schema = self._guessed_schema()
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise source_errors.invalid(f"{self._name} has two columns named {twice[0]!r}. Rename one in the header.")
        return {
            field.name: field.type if field.type in _KEPT and field.name not in self._untyped else pa.string()
            for field in schema
        }

    def _guessed_schema(self) -> pa.Schema:
        try:
            return self._reader(self._open(), _GUESS_BYTES).schema
        except pa.ArrowInvalid:
            # A row longer than that, or an error that the full reader will report.
            pass
        try:
            return self._reader(self._open(), limits.CSV_ROW_BYTES).schema
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                raise _Blank from error
            raise self._explained(str(error)) from error

    def _reader(
        self, source: _Text, block_bytes: int, types: dict[str, pa.DataType] | None = None
    ) -> arrow_csv.CSVStreamingReader:
        return arrow_csv.open_csv(
            pa.PythonFile(source, mode="r"),
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=block_bytes),
            parse_options=arrow_csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(column_types=types),
        )

    def _corrected(self, message: str) -> Exception:
        cell = _CELL.search(message)
        if cell is None:
            return self._explained(message)
        column = list(self._types)[int(cell[1])]
        self._types[column] = pa.float64() if self._types[column] == pa.int64() else pa.string()
        return StartAgain()

    def _explained(self, message: str) -> errors.PolytokError:
        if ragged := _RAGGED.search(message):
            return source_errors.invalid(
                f"{self._name}, row {ragged[1]} (the header is row 1): {ragged[3]} cells, but the header has"
                f" {ragged[2]}. Fix the row, and quote cells that contain commas or line endings."
            )
        if "straddl" in message:
            return source_errors.invalid(
                f"{self._name} has a row longer than the limit of {limits.CSV_ROW_BYTES >> 20} MiB for CSV."
                " Write the file as Parquet or jsonl, or check that every quotation is closed."
            )
        return source_errors.invalid(
            f"{self._name} is not valid CSV ({message[:200]}). Fix it, or name another format."
        )
