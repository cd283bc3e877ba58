"""The storage, local or remote."""

import contextlib
import hashlib
import pathlib
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import BinaryIO

import fsspec

from polytok import errors
from services.runtime.storage import checksums, keys
from services.runtime.storage.cache import Cache
from services.runtime.storage.local import Entry, LocalRoot
from services.runtime.storage.remote import RemoteRoot
from services.runtime.storage.staging import StagedFile

_CHUNK_BYTES = 1 << 20
_LINKED = "a symbolic link that leaves the storage root is in its place, or in that of a folder above it"


class Storage:
    """Files under one root: a path, `file://…`, or any URI that fsspec opens."""

    def __init__(self, root: str, cache: Cache | None = None) -> None:
        """Open the root; `cache` keeps copies of what `open_checked` reads from a remote root."""
        protocol, path = fsspec.core.split_protocol(root)
        self._local = LocalRoot(path) if protocol in {None, "file", "local"} else None
        self._root = self._local or RemoteRoot(root)
        self._cache = None if self._local else cache

    def uri(self, key: str) -> str:
        """Return the location of a key: an absolute path, or a URI for a remote root."""
        keys.check(key)
        return self._root.uri(key)

    def local_path(self, key: str) -> pathlib.Path | None:
        """Return the path of the key, or None for a remote root."""
        keys.check(key)
        return self._local.path(key) if self._local else None

    def _translated(self, action: str, key: str) -> AbstractContextManager[None]:
        return keys.translated(action, key, "" if isinstance(self._root, LocalRoot) else self._root.uri(key))

    def create(self, key: str) -> AbstractContextManager[StagedFile]:
        """Return a file to write to; it appears under its key, complete and on disk, when the block succeeds."""
        keys.check(key)
        return self._root.create(key)

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading."""
        keys.check(key)
        with self._translated("opening", key):
            return self._root.open(key)

    def open_checked(self, key: str, sha256: str) -> BinaryIO:
        """Open a file with a known checksum, from a local copy if there can be one.

        The caller still checks what it reads: a file with other content is opened as it is.
        """
        keys.check(key)
        copy = self._cache.open(sha256) if self._cache else None
        if copy is not None:
            return copy
        source = self.open(key)
        with self._translated("reading", key):
            return self._cache.add(source, sha256) if self._cache else source

    @contextlib.contextmanager
    def verified(self, key: str, sha256: str, size_bytes: int, advice: str) -> Generator[checksums.CheckedFile]:
        """Open a file that is read once, in order; the block succeeds only if its bytes have this checksum.

        Otherwise raise DataLoss with the advice, even if the block raised an error, which the damage explains. It is
        also raised if the file is missing.
        """
        try:
            opened = self.open_checked(key, sha256)
        except errors.NotFound as error:
            raise self.damaged(key, "it is missing", advice) from error
        except errors.DataLoss as error:
            raise self.damaged(key, _LINKED, advice) from error
        with opened as file:
            checked = checksums.CheckedFile(file)
            try:
                yield checked
            except Exception:
                self.compare(key, checked.drain(), (size_bytes, sha256), advice)
                raise
            self.compare(key, checked.drain(), (size_bytes, sha256), advice)

    def compare(self, key: str, found: tuple[int, str], written: tuple[int, str], advice: str) -> None:
        """Raise DataLoss, with the advice, unless size and sha256 of a file are those that were written."""
        if found != written:
            what = (
                f"it has {found[0]} bytes with sha256 {found[1][:12]}…, expected {written[0]} with {written[1][:12]}…"
            )
            raise self.damaged(key, what, advice, sha256=written[1])

    def damaged(self, key: str, what: str, advice: str, *, sha256: str = "", shown: str = "") -> errors.DataLoss:
        """Return the error for a damaged file.

        If the bytes came from a local copy, the copy is deleted, and another attempt may succeed.
        """
        dropped = self._cache is not None and self._cache.discard(sha256)
        return checksums.damaged(key, what, advice, retryable=dropped, shown=shown)

    def read_checked(self, key: str, sha256: str, advice: str) -> bytes:
        """Read a whole file; raise DataLoss, with the advice, unless it has this checksum."""
        data = self.read_bytes(key)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise checksums.damaged(key, f"its sha256 is {found[:12]}…, expected {sha256[:12]}…", advice)
        return data

    def read_bytes(self, key: str) -> bytes:
        """Return all bytes of a file."""
        with self.open(key) as file, self._translated("reading", key):
            return file.read()

    def write_bytes(self, key: str, data: bytes) -> str:
        """Write a file as `create` does; return its sha256."""
        with self.create(key) as staged:
            staged.write(data)
        return staged.sha256

    def exists(self, key: str) -> bool:
        """Return whether the file exists."""
        keys.check(key)
        with self._translated("looking up", key):
            return self._root.is_file(key)

    def entry(self, key: str) -> Entry | None:
        """Return what exists at the key itself, without following a link; None for a remote root."""
        keys.check(key)
        with self._translated("looking up", key):
            return self._local.entry(key) if self._local else None

    def clear(self, key: str) -> None:
        """Remove a folder that stands in the place of a file; anything else stays."""
        keys.check(key)
        if self._local:
            with self._translated("deleting", key):
                self._local.clear(key)

    def size(self, key: str) -> int:
        """Return a file's size in bytes."""
        keys.check(key)
        with self._translated("looking up", key):
            return self._root.size(key)

    def sha256(self, key: str) -> str:
        """Return the sha256 of a file, in hex."""
        digest = hashlib.sha256()
        with self.open(key) as file, self._translated("reading", key):
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def verify(self, key: str, sha256: str) -> None:
        """Raise DataLoss unless the file has this checksum."""
        found = self.sha256(key)
        if found != sha256:
            raise errors.DataLoss(
                f"{key!r} is damaged: its sha256 is {found}, expected {sha256}.", metadata={"key": key}
            )

    def move(self, source_key: str, target_key: str) -> None:
        """Rename a file, replacing any file of that name."""
        keys.check(source_key)
        keys.check(target_key)
        with self._translated("moving", source_key):
            self._root.move(source_key, target_key)

    def list(self, key: str) -> list[str]:
        """Return the keys of all files below a folder, sorted; empty if it does not exist."""
        keys.check(key)
        with contextlib.suppress(errors.NotFound), self._translated("listing", key):
            return self._root.list(key)
        return []

    def delete(self, key: str) -> None:
        """Remove a file; a missing one is not an error."""
        keys.check(key)
        with self._translated("deleting", key):
            self._root.delete(key)

    def delete_tree(self, key: str) -> None:
        """Remove a folder with everything below it; a missing one is not an error."""
        keys.check(key)
        with self._translated("deleting", key):
            self._root.delete_tree(key)
