"""The stored bytes of a source file, with the errors of any file system converted to ours."""

import io
from typing import Any

import fsspec

from services.catalog.ingest import source_errors
from services.runtime.source_allowlist import SourceAllowlist


class RawFile(io.RawIOBase):
    """An open file, local or remote.

    Libraries that read through it pass our errors on unchanged, so that any other error they raise is about content.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.name = source_errors.redact_uri(uri)
        """The name in messages."""
        self.bytes_read = 0
        """Number of bytes read, for progress."""
        self._file: Any = None
        SourceAllowlist().check(uri)
        try:
            # Others add and replace files during the life of this process.
            filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
            self._file = filesystem.open(path, "rb")
        except Exception as error:
            raise source_errors.from_io_error(uri, error) from error

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether its size and end can be reached without reading it all."""
        return bool(self._file.seekable())

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, as many as requested unless the file ends."""
        try:
            chunk: bytes = self._file.read(-1 if size is None else size)
        except Exception as error:
            raise source_errors.from_io_error(self.uri, error) from error
        self.bytes_read += len(chunk)
        return chunk

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek to a position."""
        try:
            return int(self._file.seek(offset, whence))
        except Exception as error:
            raise source_errors.from_io_error(self.uri, error) from error

    def tell(self) -> int:
        """Return the position."""
        return int(self._file.tell())

    def head(self, size: int) -> bytes:
        """Return the first bytes, before anything else is read; the position stays at the beginning."""
        chunk = self.read(size)
        self.seek(0)
        self.bytes_read = 0
        return chunk

    def close(self) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()
        super().close()
