"""Local copies of remote files, so that a shard that several tasks read is fetched once.

A copy is named by the sha256 of its content, checked while it is made, and so never stale. Any number of processes may
share the folder; the least recently used copies are deleted first. Losing the folder costs only time.
"""

import contextlib
import hashlib
import os
import pathlib
import secrets
from typing import BinaryIO

from services.runtime.telemetry import logging

_log = logging.get(__name__)

_CHUNK_BYTES = 1 << 20


class Cache:
    """A folder of copies with a size limit, exceeded only while a copy is added."""

    def __init__(self, folder: str, most_bytes: int) -> None:
        self._folder = pathlib.Path(folder)
        self._most_bytes = most_bytes

    def open(self, sha256: str) -> BinaryIO | None:
        """Open the copy of this content; return None if there is none."""
        path = self._path(sha256)
        try:
            file = path.open("rb")
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return file

    def discard(self, sha256: str) -> bool:
        """Delete a damaged copy; return whether there was one."""
        try:
            self._path(sha256).unlink()
        except OSError:
            return False
        return True

    def add(self, source: BinaryIO, sha256: str) -> BinaryIO:
        """Copy a file and open the copy, which is kept only if its content is right.

        A problem with the cache folder is logged and the source is returned instead.
        """
        path = self._path(sha256)
        temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            copy = temporary.open("x+b")
        except OSError as error:
            _log.warning("file not cached", folder=str(self._folder), error=str(error))
            return source
        try:
            return self._filled(copy, source, temporary, path, sha256)
        except BaseException:
            copy.close()
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def _filled(
        self, copy: BinaryIO, source: BinaryIO, temporary: pathlib.Path, path: pathlib.Path, sha256: str
    ) -> BinaryIO:
        digest = hashlib.sha256()
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            try:
                copy.write(chunk)
            except OSError as error:
                _log.warning("file not cached", folder=str(self._folder), error=str(error))
                copy.close()
                source.seek(0)
                return source
        source.close()
        copy.flush()
        copy.seek(0)
        # The caller sees wrong content; nobody else will.
        if digest.hexdigest() == sha256:
            temporary.replace(path)
            self._make_room()
        return copy

    def _path(self, sha256: str) -> pathlib.Path:
        return self._folder / sha256[:2] / sha256

    def _make_room(self) -> None:
        copies = []
        for path in self._folder.glob("??/*"):
            # Another process may have deleted it.
            with contextlib.suppress(OSError):
                status = path.stat()
                copies.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies)[:-1]:
            if total <= self._most_bytes:
                return
            # Processes that have it open can still read it.
            path.unlink(missing_ok=True)
            total -= size
