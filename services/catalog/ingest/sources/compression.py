"""Compressed files, read through. A file that ends before its data does is refused, never taken as shorter.

What is read is bounded in memory, for every reader of text or Arrow is; here it is bounded in all, and so is what a
decompressor may keep to look back at: a file names that itself, and may name gigabytes.
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
"""More than text is ever compressed by; what is, repeats itself without end."""
_EXPANDED_BYTES = 1 << 30
"""Up to here it is harmless."""
_XZ_BYTES = 192 << 20
"""Memory for looking back, as `xz -9` needs a third of it. Zstandard's readers have such a bound by themselves."""


class Readable(Protocol):
    """Anything to read bytes from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, as many as asked for unless the input ends."""


class Decompressed:
    """The bytes inside a compressed file; several members one after another count as one."""

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
            # Not the modules of Python: zstandard's own readers end quietly where a file was cut off.
            self._inner = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)

    def head(self, size: int) -> bytes:
        """Return the first bytes, which `read` gives too; before anything is read."""
        self._ahead = self.read(size)
        return self._ahead

    def read(self, size: int) -> bytes:
        """Return the next bytes, as many as asked for unless the file ends."""
        ahead, self._ahead = self._ahead[:size], self._ahead[size:]
        return ahead + self._unpacked(size - len(ahead)) if len(ahead) < size else ahead

    def _unpacked(self, size: int) -> bytes:
        with self._explained():
            found = bytes(self._inner.read(size))
        self._bytes += len(found)
        if self._bytes > max(_EXPANDED_BYTES, _EXPANSION * self._raw.bytes_read):
            raise source_errors.invalid(
                f"{self._name} unpacks to more than {_EXPANSION:,} times its size, as no text does. Check what is in"
                " it, and unpack it if that is right."
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
                    f"{self._name} needs more than {_XZ_BYTES >> 20} MiB of memory to be unpacked. Compress it with a"
                    " smaller dictionary, as `xz -9` does."
                ) from error
            if "Truncated" in str(error):
                raise self._cut_off() from error
            raise source_errors.invalid(
                f"{self._name} is not whole {self._compression} data ({error}). Copy or make it again."
            ) from error

    def _cut_off(self) -> Exception:
        return source_errors.invalid(f"{self._name} ends in the middle of its {self._compression} data. Copy it again.")


class _Xz(io.RawIOBase):
    """The bytes inside a file of xz, in a bounded memory, which `lzma.LZMAFile` has no parameter for."""

    def __init__(self, raw: RawFile) -> None:
        self._raw = raw
        self._member = self._next_member()

    def _next_member(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_XZ_BYTES)

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, at least in part unless the file ends."""
        while True:
            given = b""
            if self._member.eof:
                # Zeros may stand between members.
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
