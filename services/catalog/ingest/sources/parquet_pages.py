"""The page headers of a Parquet file, looked at as they are read.

What a page takes when it is decompressed is told by its own header, and by that alone: the sizes in the file's footer
may say anything, and a few kilobytes may stand for gigabytes. Arrow reads each column of a row group from its start to
its end, so the headers pass by here before Arrow decompresses what follows them.

Layout: https://github.com/apache/parquet-format (PageHeader in parquet.thrift), in Thrift's compact protocol.
"""

import io
from dataclasses import dataclass
from typing import Any, NamedTuple

from services.catalog.ingest import source_errors
from services.catalog.ingest.sources.raw_file import RawFile

PAGE_BYTES = 160 << 20
"""The largest page that is read: Arrow holds a page packed, unpacked and, of a dictionary, once more."""
_HEADER_BYTES = 16 << 20
"""The longest header that Arrow reads."""
_GAP_BYTES = 1 << 20
_STOP, _STRUCT = 0, 12
_BOOLEANS = (1, 2)
_SIZES = {3: 1, 7: 8}
_INTEGERS = (4, 5, 6)
_BINARY, _LISTS = 8, (9, 10)


class Header(NamedTuple):
    """What is needed of a page's header."""

    uncompressed_bytes: int
    compressed_bytes: int
    length: int
    """Bytes of the header itself."""


class Incomplete(Exception):
    """The header goes on behind the data."""


def header(data: bytes) -> Header:
    """Read the header at the beginning of `data`; raises Incomplete, or ValueError for what is none."""
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
    """Values of Thrift's compact protocol, one after the other."""

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
        """Number and type of the next field of a struct; None at its end."""
        byte = self._byte()
        if byte == _STOP:
            return None
        return (before + (byte >> 4) if byte >> 4 else self.integer()), byte & 0x0F

    def skip(self, kind: int, depth: int = 0, *, in_list: bool = False) -> None:
        """Pass over a value."""
        if depth > 16:
            raise ValueError("a page header is nested too deeply")
        if kind in _BOOLEANS:
            # In a struct it is told by the type.
            self.place += in_list
        elif kind in _SIZES:
            self.place += _SIZES[kind]
        elif kind in _INTEGERS:
            self._varint()
        elif kind == _BINARY:
            # Not in one: the length moves the place as well.
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
            # Maps too: a page header has none.
            raise ValueError("a page header holds what none does")

    def _skip_list(self, depth: int) -> None:
        byte = self._byte()
        count = byte >> 4 if byte >> 4 < 15 else self._varint()
        for _ in range(count):
            if self.place >= len(self._data):
                raise Incomplete
            self.skip(byte & 0x0F, depth + 1, in_list=True)


@dataclass
class _Column:
    """A column of a row group on its way past."""

    name: str
    start: int
    end: int
    at: int
    """Where what was not looked at yet begins."""
    header: int
    """Where the next header begins."""
    begun: bytes = b""
    """What is there of it already."""


class Checked(io.RawIOBase):
    """A file in which no page of the row group in hand is larger than the bound."""

    def __init__(self, raw: RawFile, most: int) -> None:
        self._raw = raw
        self._most = most
        self._columns: list[_Column] = []
        self._group = 0

    def watch(self, about: Any, group: int) -> None:
        """Look at the columns of this row group from now on; `about` is its pyarrow.parquet.RowGroupMetaData."""
        self._group = group
        self._columns = []
        for column in (about.column(place) for place in range(about.num_columns)):
            start = column.data_page_offset
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            end = start + column.total_compressed_size
            self._columns.append(_Column(column.path_in_schema, start, end, start, start))

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """Return whether any place in it can be reached."""
        return self._raw.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return where it is."""
        return self._raw.tell()

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; raises for those of a page that is too large."""
        start = self._raw.tell()
        data = self._raw.read(size)
        for column in self._columns:
            if start < column.end and start + len(data) > column.at and column.header < column.end:
                self._catch_up(column, start)
                self._look(column, data[max(0, column.at - start) :])
        return data

    def _catch_up(self, column: _Column, start: int) -> None:
        """Read what Arrow left out."""
        place = self._raw.tell()
        while column.at < start:
            # Nothing is to be seen before the next header.
            column.at = max(column.at, min(column.header, start))
            self._raw.seek(column.at)
            if not (gap := self._raw.read(min(_GAP_BYTES, start - column.at))):
                break
            self._look(column, gap)
        self._raw.seek(place)

    def _look(self, column: _Column, data: bytes) -> None:
        """Look at the bytes of a column that follow those seen before."""
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
                f" {self._most >> 20} MiB is the most. Write it again with smaller row groups."
            )

    def _broken(self, column: _Column) -> Exception:
        return source_errors.invalid(
            f"{self._raw.name} is not whole Parquet (the pages of column {column.name!r} in row group {self._group}"
            " are damaged). It may have been cut off: copy or write it again."
        )
