"""A local file whose bytes go to the disk while more are written, so that there is little to wait for at its end.

Linux keeps what is written until it has to, or until fsync(2), which then waits for all of it. sync_file_range(2) only
starts what fsync still makes sure of; elsewhere than on Linux nothing is started.
"""

import ctypes
from typing import Any, BinaryIO

_AT_ONCE = 8 << 20
_START = 2
"""SYNC_FILE_RANGE_WRITE."""


class BackgroundFlushFile:
    """Writes to a file that nobody else writes to, from its beginning."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = self._started = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """Take all of the data."""
        self._file.write(data)
        self._written += len(data)
        if self._written - self._started >= _AT_ONCE:
            self._file.flush()
            if _start is not None:
                # What it answers does not matter: fsync tells what fails.
                _start(self._file.fileno(), self._started, self._written - self._started, _START)
            self._started = self._written
        return len(data)

    def flush(self) -> None:
        """Hand everything to the system below."""
        self._file.flush()


def _function() -> Any:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_start = _function()
