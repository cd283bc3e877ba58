"""Copies of remote files on this machine, so that a shard that several tasks read is fetched once.

A copy is named by the sha256 of its content, checked while it is made, and so never out of date. The folder may be
shared by any number of processes; the copies that were not used for longest go first. Losing it costs time alone.
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
    """A folder of copies, of so many bytes at most and a few more while one is added."""

    def __init__(self, folder: str, most_bytes: int) -> None:
        self._folder = pathlib.Path(folder)
        self._most_bytes = most_bytes

    def open(self, sha256: str) -> BinaryIO | None:
        """Open the copy of this content; None if there is none."""
        path = self._path(sha256)
        try:
            file = path.open("rb")
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return file

    def discard(self, sha256: str) -> bool:
        """Remove the copy of this content, which turned out to be damaged; return whether there was one."""
        try:
            self._path(sha256).unlink()
        except OSError:
            return False
        return True

    def add(self, source: BinaryIO, sha256: str) -> BinaryIO:
        """Copy a file and open the copy, which stays in the folder only if it is what it should be.

        Whatever goes wrong with the folder itself costs the copy and no more: the answer is then the source.
        """
        path = self._path(sha256)
        temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            copy = temporary.open("x+b")
        except OSError as error:
            _log.warning("no copy kept", folder=str(self._folder), error=str(error))
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
                _log.warning("no copy kept", folder=str(self._folder), error=str(error))
                copy.close()
                source.seek(0)
                return source
        source.close()
        copy.flush()
        copy.seek(0)
        # What is not as it should be is for the caller to see, and for nobody after.
        if digest.hexdigest() == sha256:
            temporary.replace(path)
            self._make_room()
        return copy

    def _path(self, sha256: str) -> pathlib.Path:
        return self._folder / sha256[:2] / sha256

    def _make_room(self) -> None:
        copies = []
        for path in self._folder.glob("??/*"):
            # Another process may have removed it.
            with contextlib.suppress(OSError):
                status = path.stat()
                copies.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies)[:-1]:
            if total <= self._most_bytes:
                return
            # Whoever has it open reads on.
            path.unlink(missing_ok=True)
            total -= size
