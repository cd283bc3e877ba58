"""Decompression of source files. A truncated file is rejected, never read as a shorter one.

Readers of text and Arrow bound what they hold in memory. Here the total size is bounded, and the window of the
decompressor, whose size the file itself states and which could be gigabytes.
"""

import contextlib
import io
import lzma
from collections.abc import Generator
from typing import Any, Protocol

import pyarrow as pa

from services.catalog.ingest import limits, source_errors
from services.catalog.ingest.sources.raw_file import RawFile

_EXPANSION = 1000
"""Higher than the compression ratio of any real text: beyond it the content repeats endlessly."""
_EXPANDED_BYTES = 1 << 30
"""Harmless below this size."""
_XZ_BYTES = 192 << 20
"""Limit for the window, three times what `xz -9` needs. Zstandard's readers have such a limit themselves."""


class Readable(Protocol):
    """Anything to read bytes from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, as many as requested unless the input ends."""


class Decompressed:
    """The decompressed bytes of a file; several members count as one stream."""

    def __init__(self, raw: RawFile, compression: str) -> None:
        self._raw = raw
        self._bytes = 0
        self._ahead = b""
        self._name = raw.name
        self._compression = compression
        self._inner: Any
        if compression == "xz":
            self._inner = io.BufferedReader(_Xz(raw))
        else:
            # Not Python's modules: zstandard's own readers end silently on a truncated file.
            self._inner = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)

    def head(self, size: int) -> bytes:
        """Return the first bytes without consuming them, before anything is read."""
        self._ahead = self.read(size)
        return self._ahead

    def read(self, size: int) -> bytes:
        """Return the next bytes, as many as requested unless the file ends."""
        ahead, self._ahead = self._ahead[:size], self._ahead[size:]
        return ahead + self._unpacked(size - len(ahead)) if len(ahead) < size else ahead

    def _unpacked(self, size: int) -> bytes:
        with self._explained():
            found = bytes(self._inner.read(size))
        self._bytes += len(found)
        if self._bytes > max(_EXPANDED_BYTES, _EXPANSION * self._raw.bytes_read):
            raise source_errors.invalid(
                f"{self._name} decompresses to more than {_EXPANSION:,} times its size, which text never does. Check"
                " its content, and decompress it yourself if it is right."
            )
        return found

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except EOFError as error:
            raise self._cut_off() from error
        except (lzma.LZMAError, OSError) as error:
            if "Memory usage limit" in str(error):
                raise source_errors.invalid(
                    f"{self._name} needs more than {_XZ_BYTES >> 20} MiB of memory to decompress. Compress it with a"
                    " smaller dictionary, as `xz -9` does."
                ) from error
            if "Truncated" in str(error):
                raise self._cut_off() from error
            raise source_errors.invalid(
                f"{self._name} is not valid {self._compression} data ({error}). Copy or compress it again."
            ) from error

    def _cut_off(self) -> Exception:
        return source_errors.invalid(f"{self._name} ends in the middle of its {self._compression} data. Copy it again.")


class _Xz(io.RawIOBase):
    """Decompress an xz file with a memory limit, for which `lzma.LZMAFile` has no parameter."""

    def __init__(self, raw: RawFile) -> None:
        self._raw = raw
        self._member = self._next_member()

    def _next_member(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_XZ_BYTES)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, at least partly unless the file ends."""
        while True:
            given = b""
            if self._member.eof:
                # There may be zeros between members.
                given = self._member.unused_data.lstrip(b"\0")
                while not given and (chunk := self._raw.read(limits.BLOCK_BYTES)):
                    given = chunk.lstrip(b"\0")
                if not given:
                    return 0
                self._member = self._next_member()
            elif self._member.needs_input and not (given := self._raw.read(limits.BLOCK_BYTES)):
                raise EOFError
            if found := self._member.decompress(given, len(buffer)):
                buffer[: len(found)] = found
                return len(found)
