"""A limit on what a piece of work may allocate, for libraries whose memory use depends on their input."""

import contextlib
import pathlib
import re
import resource
import sys
from collections.abc import Generator


class MemoryLimitExceeded(Exception):
    """Raised when more memory was requested than the limit leaves."""


class MemoryLimit:
    """A limit of `size` bytes of private memory beyond what the process has when this is created.

    It applies to all threads of the process while `held`: for processes that do one thing at a time. Outside Linux
    nothing is limited, because the kernel does not count mappings there (RLIMIT_DATA).
    """

    def __init__(self, size: int) -> None:
        self._limit = _allocated() + size if sys.platform == "linux" else resource.RLIM_INFINITY

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Raise Exceeded in place of a MemoryError that this limit caused."""
        before, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if self._limit == resource.RLIM_INFINITY or (before != resource.RLIM_INFINITY and before <= self._limit):
            # The process as a whole has a tighter limit.
            yield
            return
        resource.setrlimit(resource.RLIMIT_DATA, (self._limit, hard))
        try:
            yield
        except MemoryError as error:
            raise MemoryLimitExceeded from error
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _allocated() -> int:
    """Return the bytes of private, writable memory that the kernel counts against RLIMIT_DATA."""
    found = re.search(r"^VmData:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0
