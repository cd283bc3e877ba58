"""Compressed files, read through. A file that ends before its data does is refused, never taken as shorter."""

import contextlib
import lzma
from collections.abc import Generator
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa

from services.catalog.ingest import failures
from services.catalog.ingest.sources.raw import RawFile


class Readable(Protocol):
    """Anything to read bytes from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, as many as asked for unless the input ends."""


class Decompressed:
    """The bytes inside a compressed file; several members one after another count as one."""

    def __init__(self, raw: RawFile, compression: str) -> None:
        self._name = raw.name
        self._compression = compression
        self._inner: Any
        if compression == "xz":
            self._inner = lzma.LZMAFile(cast("BinaryIO", raw))  # noqa: SIM115 - it holds nothing that needs closing
        else:
            # Not the modules of Python: zstandard's own readers end quietly where a file was cut off.
            self._inner = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)

    def read(self, size: int) -> bytes:
        """The next bytes, as many as asked for unless the file ends."""
        with self._explained():
            return bytes(self._inner.read(size))

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except EOFError as error:
            raise self._cut_off() from error
        except (lzma.LZMAError, OSError) as error:
            if "Truncated" in str(error):
                raise self._cut_off() from error
            raise failures.invalid(
                f"{self._name} is not whole {self._compression} data ({error}). Copy or make it again."
            ) from error

    def _cut_off(self) -> Exception:
        return failures.invalid(f"{self._name} ends in the middle of its {self._compression} data. Copy it again.")
