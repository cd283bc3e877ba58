"""A bound on what a piece of work may allocate, for libraries that take as much as their input makes them take."""

import contextlib
import pathlib
import re
import resource
import sys
from collections.abc import Generator


class MemoryLimitExceeded(Exception):
    """More memory was asked for than the bound leaves."""


class MemoryLimit:
    """Private memory up to `size` bytes beyond what the process has when this is made.

    It binds all threads of the process while `held`: for processes that do one thing at a time. Elsewhere than on Linux
    nothing is bound, for there the kernel does not count what is mapped (RLIMIT_DATA).
    """

    def __init__(self, size: int) -> None:
        self._limit = _allocated() + size if sys.platform == "linux" else resource.RLIM_INFINITY

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Raise Exceeded in place of a MemoryError that is this bound's doing."""
        before, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if self._limit == resource.RLIM_INFINITY or (before != resource.RLIM_INFINITY and before <= self._limit):
            # The process as a whole is bound closer.
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
    """Bytes of private, writable memory, as the kernel counts them against RLIMIT_DATA."""
    found = re.search(r"^VmData:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0
