"""A local file that is flushed while more is written, so that fsync at the end is short.

Linux keeps written bytes in memory until fsync(2), which then waits for all of them. sync_file_range(2) starts writing
earlier; fsync still guarantees the result. On other systems nothing happens early.
"""

import ctypes
from typing import Any, BinaryIO

_AT_ONCE = 8 << 20
_START = 2
"""SYNC_FILE_RANGE_WRITE."""


class BackgroundFlushFile:
    """Writes a file from its beginning, as its only writer."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = self._started = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of the data."""
        self._file.write(data)
        self._written += len(data)
        if self._written - self._started >= _AT_ONCE:
            self._file.flush()
            if _start is not None:
                # The result does not matter: fsync reports failures.
                _start(self._file.fileno(), self._started, self._written - self._started, _START)
            self._started = self._written
        return len(data)

    def flush(self) -> None:
        """Flush to the operating system."""
        self._file.flush()


def _function() -> Any:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_start = _function()
