"""A file that is being written."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Protocol

from services.runtime.storage import keys


class Sink(Protocol):
    """What a staged file needs from the underlying file."""

    def write(self, data: bytes | memoryview, /) -> int | None:
        """Write all of the data."""

    def flush(self) -> None:
        """Flush to the operating system."""


class StagedFile:
    """A binary file to write to, also for pyarrow; it gets its name when the `with` block succeeds.

    Afterwards `sha256` (hex) and `size` describe what was written.
    """

    mode = "wb"

    def __init__(self, sink: Sink, key: str, uri: str = "", place: pathlib.Path | None = None) -> None:
        """`uri` is the object's, or `place` the local folder, for error messages."""
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
        """Pass everything written from now on to `watch` too."""
        self._watch = watch

    def leave_checksum_out(self) -> None:
        """Leave `sha256` empty, for a file whose checksum is not needed."""
        self._digest = None

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.size

    def flush(self) -> None:
        """Flush everything written so far."""
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
        """Do nothing: some writers close their file, but only the `with` block may finish it."""

    def finish(self, publish: Callable[[], None]) -> None:
        """Finish the file and give it its name."""
        self.flush()
        self.closed = True
        with keys.translated("writing", self._key, self._uri, self._place):
            publish()
        if self._digest is not None:
            self.sha256 = self._digest.hexdigest()
