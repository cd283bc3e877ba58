"""Check bytes to be UTF-8 while they are read."""

import io

import pyarrow as pa

from services.catalog.ingest import source_errors
from services.catalog.ingest.sources.compression import Readable

_MARK = b"\xef\xbb\xbf"
_LOOK_BYTES = 64 << 10
"""Binary data contain a NUL byte well within this many bytes."""
_LEADS = ((0xF0, 4), (0xE0, 3), (0xC0, 2))


class Utf8(io.RawIOBase):
    """Reads through, skips a byte-order mark, and rejects bytes that are not UTF-8, with their position."""

    def __init__(self, inner: Readable, name: str) -> None:
        self._inner = inner
        self._name = name
        self._unchecked = b""
        """A character that the end of the last chunk cut off."""
        self._offset = 0
        self.line_ends = 0
        """Number of line endings read."""

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, as many as requested unless the input ends."""
        assert size is not None
        at_start = self._offset == 0 and not self._unchecked
        chunk: bytes = self._inner.read(size)
        self._check(self._unchecked + chunk if self._unchecked else chunk, last=not chunk)
        if at_start and chunk.startswith(_MARK):
            chunk = chunk[len(_MARK) :] or self.read(size)
        return chunk

    def _check(self, chunk: bytes, *, last: bool) -> None:
        cut = 0 if last else _cut_bytes(chunk)
        whole = memoryview(chunk)[: len(chunk) - cut]
        if not _is_utf8(whole):
            raise self._invalid(bytes(whole))
        self._offset += len(whole)
        self.line_ends += chunk.count(b"\n")
        self._unchecked = chunk[len(chunk) - cut :] if cut else b""

    def _invalid(self, chunk: bytes) -> Exception:
        if b"\0" in chunk[:_LOOK_BYTES]:
            # Not an encoding of text that a converter could handle: Latin-1 and the like do not use NUL.
            return source_errors.invalid(
                f"{self._name} is not text: it contains NUL bytes, the first at offset {self._offset + chunk.index(0)}."
                " Rename the file with the right extension, or exclude it."
            )
        try:
            chunk.decode()
        except UnicodeDecodeError as error:
            line = self.line_ends + 1 + chunk.count(b"\n", 0, error.start)
            return source_errors.invalid(
                f"{self._name}, line {line}: not UTF-8 (byte 0x{chunk[error.start]:02x} at offset"
                f" {self._offset + error.start} of the file). Convert the file to UTF-8, for example"
                " `iconv -f LATIN1 -t UTF-8` for Latin-1."
            )
        raise AssertionError("Arrow and Python differ on what is UTF-8")


def as_array(data: bytes | memoryview) -> pa.Array:
    """Return an Arrow array whose one string is these very bytes."""
    offsets = pa.py_buffer(len(data).to_bytes(8, "little").rjust(16, b"\0"))
    return pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(data)])


def _is_utf8(data: memoryview) -> bool:
    try:
        as_array(data).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _cut_bytes(chunk: bytes) -> int:
    """Return how many bytes at the end begin a character that continues after them."""
    for back in range(1, min(3, len(chunk)) + 1):
        byte = chunk[-back]
        if byte >= 0xC0:
            length = next(length for lead, length in _LEADS if byte >= lead)
            return back if length > back else 0
        if byte < 0x80:
            return 0
    return 0
