"""A storage root behind fsspec: S3, GCS, Azure, HDFS, memory and others."""

import contextlib
import io
import posixpath
import secrets
from collections.abc import Generator
from typing import Any, BinaryIO, cast

import fsspec

from polytok import object_store_errors
from services.runtime.storage import keys
from services.runtime.storage.staging import StagedFile

_OBJECT_STORES = frozenset({"S3FileSystem", "GCSFileSystem"})
"""Stores without folders that show an object when its upload is committed, and never a part of it."""
_S3_OPTIONS = {"default_block_size": 16 << 20, "max_concurrency": 4}
"""Block size for read-ahead and uploads; it bounds the memory per file."""


class _Object(io.RawIOBase):
    """An object opened for reading; errors are converted to ours."""

    def __init__(self, file: Any, key: str, uri: str) -> None:
        self._file = file
        self._key = key
        self._uri = uri

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, or all that are left; fewer only at the end."""
        with keys.translated("reading", self._key, self._uri):
            return cast("bytes", self._file.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek to a position."""
        return cast("int", self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the position."""
        return cast("int", self._file.tell())

    def close(self) -> None:
        """Free the read-ahead buffer."""
        self._file.close()
        super().close()


class RemoteRoot:
    """Objects below a prefix. Only complete objects appear under their keys.

    A process killed during an upload leaves invisible parts that the store keeps: give the bucket a rule that removes
    incomplete uploads (`AbortIncompleteMultipartUpload`).
    """

    def __init__(self, root: str) -> None:
        protocol = fsspec.core.split_protocol(root)[0]
        options = _S3_OPTIONS if protocol in {"s3", "s3a"} else {}
        with keys.translated("opening", root, root):
            # Other processes write here too, so listings must not be cached.
            self._filesystem: Any = fsspec.filesystem(protocol, use_listings_cache=False, **options)
        self._prefix = str(self._filesystem._strip_protocol(root)).rstrip("/")  # noqa: SLF001  as url_to_fs does
        self._is_object_store = type(self._filesystem).__name__ in _OBJECT_STORES

    def path(self, key: str) -> str:
        """Return the object's path in the file system."""
        return posixpath.join(self._prefix, key)

    def uri(self, key: str) -> str:
        """Return the object's URI."""
        return cast("str", self._filesystem.unstrip_protocol(self.path(key)))

    def _make_folder(self, folder: str) -> None:
        # On an object store this would create a bucket for a misspelt name.
        if not self._is_object_store:
            self._filesystem.makedirs(folder, exist_ok=True)

    @contextlib.contextmanager
    def create(self, key: str) -> Generator[StagedFile]:
        """Upload, and give the object its name at the end."""
        path, uri = self.path(key), self.uri(key)
        folder, name = posixpath.split(path)
        # Other stores would show half a file, so the last step is a rename.
        atomic = self._is_object_store
        upload = path if atomic else posixpath.join(folder, f".{name[:48]}.{secrets.token_hex(8)}.part")
        with keys.translated("creating", key, uri):
            self._make_folder(folder)
            sink = self._filesystem.open(upload, "wb", autocommit=not atomic)
        staged = StagedFile(sink, key, uri)
        try:
            yield staged

            def publish() -> None:
                sink.close()
                if atomic:
                    sink.commit()
                else:
                    self._filesystem.mv(upload, path)

            staged.finish(publish)
        except BaseException:
            # The cause is already known; a store that cannot even discard has nothing to add.
            with contextlib.suppress(Exception):
                if atomic:
                    # Closing would upload the rest.
                    sink.closed = True
                    sink.discard()
                else:
                    sink.close()
                    self._filesystem.rm_file(upload)
            raise

    def open(self, key: str) -> BinaryIO:
        """Open the object for reading."""
        return cast("BinaryIO", _Object(self._filesystem.open(self.path(key), "rb"), key, self.uri(key)))

    def is_file(self, key: str) -> bool:
        """Return whether the object exists."""
        try:
            # Not `isfile`, which returns False for a store that cannot be reached.
            return bool(self._filesystem.info(self.path(key))["type"] == "file")
        except FileNotFoundError as error:
            if object_store_errors.translate(error, self.uri(key)):
                raise
            return False

    def size(self, key: str) -> int:
        """Return the object's size in bytes."""
        return int(self._filesystem.size(self.path(key)))

    def move(self, source_key: str, target_key: str) -> None:
        """Rename an object; a store without renames copies it and then deletes the source.

        In between both exist; the target is complete at any time, the old one or the new one.
        """
        target = self.path(target_key)
        self._make_folder(posixpath.dirname(target))
        self._filesystem.mv(self.path(source_key), target)

    def list(self, key: str) -> list[str]:
        """Return the keys of all objects below a prefix."""
        self._filesystem.invalidate_cache()
        start = len(self._prefix) + 1
        return sorted(path[start:] for path in self._filesystem.find(self.path(key)) if not path.endswith("/"))

    def delete(self, key: str) -> None:
        """Remove one object."""
        if self.is_file(key):
            self._filesystem.rm_file(self.path(key))

    def delete_tree(self, key: str) -> None:
        """Remove all objects below a prefix."""
        self._filesystem.invalidate_cache()
        path = self.path(key)
        if self._is_object_store:
            if found := self._filesystem.find(path):
                self._filesystem.rm(found)
        elif self._filesystem.exists(path):
            self._filesystem.rm(path, recursive=True)
