"""The page headers of a Parquet file, checked while they are read.

Only a page's own header states its decompressed size: the sizes in the file's footer may say anything, and a few
kilobytes
may expand to gigabytes. Arrow reads each column of a row group from start to end, so the headers pass through here
before
Arrow decompresses what follows them.

Layout: https://github.com/apache/parquet-format (PageHeader in parquet.thrift), in Thrift's compact protocol.
"""

import io
from dataclasses import dataclass
from typing import Any, NamedTuple

from services.catalog.ingest import source_errors
from services.catalog.ingest.sources.raw_file import RawFile

PAGE_BYTES = 160 << 20
"""The largest page: Arrow holds a page compressed, decompressed and, for a dictionary, once more."""
_HEADER_BYTES = 16 << 20
"""The longest header that Arrow reads."""
_GAP_BYTES = 1 << 20
_STOP, _STRUCT = 0, 12
_BOOLEANS = (1, 2)
_SIZES = {3: 1, 7: 8}
_INTEGERS = (4, 5, 6)
_BINARY, _LISTS = 8, (9, 10)


class Header(NamedTuple):
    """The required fields of a page's header."""

    uncompressed_bytes: int
    compressed_bytes: int
    length: int
    """Length of the header itself."""


class Incomplete(Exception):
    """Raised when the header continues after the data."""


def header(data: bytes) -> Header:
    """Parse the header at the beginning of `data`; raise Incomplete, or ValueError if it is not a header."""
    reader = _Compact(data)
    sizes = {2: -1, 3: -1}
    field = 0
    while (kind := reader.field(field)) is not None:
        field, of_type = kind
        if field in sizes and of_type in _INTEGERS:
            sizes[field] = reader.integer()
        else:
            reader.skip(of_type)
    if min(sizes.values()) < 0:
        raise ValueError("a page header has no sizes")
    if reader.place > len(data):
        raise Incomplete
    return Header(sizes[2], sizes[3], reader.place)


class _Compact:
    """Values of Thrift's compact protocol, in sequence."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def _byte(self) -> int:
        if self.place >= len(self._data):
            raise Incomplete
        self.place += 1
        return self._data[self.place - 1]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ValueError("a number is too long")

    def integer(self) -> int:
        """Return a signed number."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def field(self, before: int) -> tuple[int, int] | None:
        """Return number and type of the next field of a struct; None at its end."""
        byte = self._byte()
        if byte == _STOP:
            return None
        return (before + (byte >> 4) if byte >> 4 else self.integer()), byte & 0x0F

    def skip(self, kind: int, depth: int = 0, *, in_list: bool = False) -> None:
        """Skip a value."""
        if depth > 16:
            raise ValueError("a page header is nested too deeply")
        if kind in _BOOLEANS:
            # In a struct, the type carries the value.
            self.place += in_list
        elif kind in _SIZES:
            self.place += _SIZES[kind]
        elif kind in _INTEGERS:
            self._varint()
        elif kind == _BINARY:
            # Two statements: reading the length moves the position as well.
            size = self._varint()
            self.place += size
        elif kind in _LISTS:
            self._skip_list(depth)
        elif kind == _STRUCT:
            field = 0
            while (found := self.field(field)) is not None:
                field = found[0]
                self.skip(found[1], depth + 1)
        else:
            # Including maps: a page header has none.
            raise ValueError("unexpected content in a page header")

    def _skip_list(self, depth: int) -> None:
        byte = self._byte()
        count = byte >> 4 if byte >> 4 < 15 else self._varint()
        for _ in range(count):
            if self.place >= len(self._data):
                raise Incomplete
            self.skip(byte & 0x0F, depth + 1, in_list=True)


@dataclass
class _Column:
    """A column of a row group that is being read."""

    name: str
    start: int
    end: int
    at: int
    """Position up to which the column has been examined."""
    header: int
    """Position of the next header."""
    begun: bytes = b""
    """The part of it that has been read."""


class Checked(io.RawIOBase):
    """A file in which no page of the current row group exceeds the limit."""

    def __init__(self, raw: RawFile, most: int) -> None:
        self._raw = raw
        self._most = most
        self._columns: list[_Column] = []
        self._group = 0

    def watch(self, about: Any, group: int) -> None:
        """Examine the columns of this row group from now on; `about` is its pyarrow.parquet.RowGroupMetaData."""
        self._group = group
        self._columns = []
        for column in (about.column(place) for place in range(about.num_columns)):
            start = column.data_page_offset
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            end = start + column.total_compressed_size
            self._columns.append(_Column(column.path_in_schema, start, end, start, start))

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the file is seekable."""
        return self._raw.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek to a position."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._raw.tell()

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; raise if they belong to a page that is too large."""
        start = self._raw.tell()
        data = self._raw.read(size)
        for column in self._columns:
            if start < column.end and start + len(data) > column.at and column.header < column.end:
                self._catch_up(column, start)
                self._look(column, data[max(0, column.at - start) :])
        return data

    def _catch_up(self, column: _Column, start: int) -> None:
        """Read what Arrow skipped."""
        place = self._raw.tell()
        while column.at < start:
            # Nothing needs examining before the next header.
            column.at = max(column.at, min(column.header, start))
            self._raw.seek(column.at)
            if not (gap := self._raw.read(min(_GAP_BYTES, start - column.at))):
                break
            self._look(column, gap)
        self._raw.seek(place)

    def _look(self, column: _Column, data: bytes) -> None:
        """Examine the bytes of a column that follow those seen before."""
        end = column.at + len(data)
        if column.begun:
            data, column.at = column.begun + data, column.header
        while column.header < min(end, column.end):
            rest = data[column.header - column.at : column.header - column.at + _HEADER_BYTES]
            try:
                found = header(rest)
            except Incomplete:
                if len(rest) >= _HEADER_BYTES:
                    raise self._broken(column) from None
                column.begun, column.at = rest, end
                return
            except ValueError as error:
                raise self._broken(column) from error
            self._check(column, found)
            column.header += found.length + found.compressed_bytes
        column.begun, column.at = b"", end

    def _check(self, column: _Column, found: Header) -> None:
        size = max(found.uncompressed_bytes, found.compressed_bytes)
        if size > self._most:
            raise source_errors.invalid(
                f"{self._raw.name}, column {column.name!r} has a page of {size >> 20:,} MiB in row group {self._group};"
                f" the limit is {self._most >> 20} MiB. Rewrite it with smaller row groups."
            )

    def _broken(self, column: _Column) -> Exception:
        return source_errors.invalid(
            f"{self._raw.name} is not valid Parquet (the pages of column {column.name!r} in row group {self._group}"
            " are damaged). It may be truncated: copy or write it again."
        )
