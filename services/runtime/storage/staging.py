"""A file while it is written."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Protocol

from services.runtime.storage import keys


class Sink(Protocol):
    """What a staged file needs of the file below it."""

    def write(self, data: bytes | memoryview, /) -> int | None:
        """Take all of the data."""

    def flush(self) -> None:
        """Hand everything to the system below."""


class StagedFile:
    """A binary file to write to, for pyarrow too; it gets its name when the `with` block ends well.

    After that, `sha256` (hex) and `size` tell what was written.
    """

    mode = "wb"

    def __init__(self, sink: Sink, key: str, uri: str = "", place: pathlib.Path | None = None) -> None:
        """`uri` is the store's, or `place` the folder on this machine, for what errors say."""
        self._sink = sink
        self._key = key
        self._uri = uri
        self._place = place
        self._digest: hashlib._Hash | None = hashlib.sha256()
        self._watch: Callable[[memoryview], None] | None = None
        self.size = 0
        self.sha256 = ""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append the data; return its length in bytes."""
        if self.closed:
            raise ValueError(f"write to {self._key!r} after its `with` block ended")
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        with keys.translated("writing", self._key, self._uri, self._place):
            self._sink.write(view)
        if self._digest is not None:
            self._digest.update(view)
        if self._watch is not None:
            self._watch(view)
        self.size += view.nbytes
        return view.nbytes

    def watch(self, watch: Callable[[memoryview], None]) -> None:
        """Have all that is written from now on told to `watch` too."""
        self._watch = watch

    def leave_checksum_out(self) -> None:
        """Leave `sha256` empty, for a file whose checksum nobody will ask for."""
        self._digest = None

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self.size

    def flush(self) -> None:
        """Hand everything written so far to the system below."""
        with keys.translated("writing", self._key, self._uri, self._place):
            self._sink.flush()

    def writable(self) -> bool:
        """Yes."""
        return True

    def readable(self) -> bool:
        """No."""
        return False

    def seekable(self) -> bool:
        """No."""
        return False

    def close(self) -> None:
        """Do nothing: some writers close what they were given, and only the `with` block may end the file."""

    def finish(self, publish: Callable[[], None]) -> None:
        """End the file and return it its name."""
        self.flush()
        self.closed = True
        with keys.translated("writing", self._key, self._uri, self._place):
            publish()
        if self._digest is not None:
            self.sha256 = self._digest.hexdigest()
