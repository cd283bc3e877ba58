"""A root that fsspec reaches: S3, GCS, Azure, HDFS, memory and others."""

import contextlib
import posixpath
import secrets
from collections.abc import Generator
from typing import Any, BinaryIO, cast

import fsspec

from services.runtime.storage import keys
from services.runtime.storage.staging import StagedFile

_ATOMIC_UPLOADS = frozenset({"S3FileSystem", "GCSFileSystem"})
"""Stores that show an object when its upload is committed, and never a part of it."""


class RemoteRoot:
    """Objects below a prefix. Only whole objects appear under their keys."""

    def __init__(self, root: str) -> None:
        self._filesystem: Any
        self._filesystem, self._prefix = fsspec.core.url_to_fs(root)
        self._prefix = self._prefix.rstrip("/")
        self._atomic = type(self._filesystem).__name__ in _ATOMIC_UPLOADS

    def path(self, key: str) -> str:
        """The object's path as the file system names it."""
        return posixpath.join(self._prefix, key)

    def uri(self, key: str) -> str:
        """The object's URI."""
        return cast("str", self._filesystem.unstrip_protocol(self.path(key)))

    @contextlib.contextmanager
    def create(self, key: str) -> Generator[StagedFile]:
        """Uploads, and gives the object its name at the end."""
        path = self.path(key)
        folder, name = posixpath.split(path)
        # Elsewhere than on these stores half a file could be seen, and the last step is a rename.
        upload = path if self._atomic else posixpath.join(folder, f".{name[:48]}.{secrets.token_hex(8)}.part")
        with keys.translated("creating", key):
            self._filesystem.makedirs(folder, exist_ok=True)
            sink = self._filesystem.open(upload, "wb", autocommit=not self._atomic)
        staged = StagedFile(sink, key)
        try:
            yield staged

            def publish() -> None:
                sink.close()
                if self._atomic:
                    sink.commit()
                else:
                    self._filesystem.mv(upload, path)

            staged.finish(publish)
        except BaseException:
            # What went wrong is known already; a store that cannot even discard has nothing to add.
            with contextlib.suppress(Exception):
                sink.close()
                if self._atomic:
                    sink.discard()
                else:
                    self._filesystem.rm_file(upload)
            raise

    def open(self, key: str) -> BinaryIO:
        """Opens the object for reading."""
        return cast("BinaryIO", self._filesystem.open(self.path(key), "rb"))

    def is_file(self, key: str) -> bool:
        """Whether there is an object."""
        return bool(self._filesystem.isfile(self.path(key)))

    def size(self, key: str) -> int:
        """Bytes in the object."""
        return int(self._filesystem.size(self.path(key)))

    def move(self, source_key: str, target_key: str) -> None:
        """Renames an object; a store without renames copies it on its side, then deletes the source."""
        target = self.path(target_key)
        self._filesystem.makedirs(posixpath.dirname(target), exist_ok=True)
        self._filesystem.mv(self.path(source_key), target)

    def list(self, key: str) -> list[str]:
        """Keys of all objects below a prefix."""
        # Listings may be cached by the file system; other processes write here too.
        self._filesystem.invalidate_cache()
        start = len(self._prefix) + 1
        return sorted(path[start:] for path in self._filesystem.find(self.path(key)))

    def delete(self, key: str) -> None:
        """Removes one object."""
        if self.is_file(key):
            self._filesystem.rm_file(self.path(key))

    def delete_tree(self, key: str) -> None:
        """Removes all objects below a prefix."""
        self._filesystem.invalidate_cache()
        path = self.path(key)
        if self._filesystem.exists(path):
            self._filesystem.rm(path, recursive=True)
