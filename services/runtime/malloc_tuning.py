"""How the C library's malloc treats freed memory: for processes that take the same large blocks over and over.

By default glibc gives large blocks back to the system at once and takes new ones, whose pages the kernel clears and
maps on first touch. For a model on a CPU, whose layers take and free tens of megabytes many times a second, that was an
eighth of the processor time. See mallopt(3); elsewhere than on glibc nothing is done.
"""

import ctypes
import os
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST = 2**31 - 1
_MAPPED_FROM = 2**30


_TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb"


def huge_pages() -> dict[str, str]:
    """Return the variable for processes to be started whose malloc is to ask for large pages.

    A page of 2 MiB costs little more to get than one of 4 KiB. Whoever has chosen is left with the choice. See "Memory
    Allocation Tunables" in glibc's manual; before 2.35, and where the kernel has no such pages, nothing changes.
    """
    chosen = os.environ.get(_TUNABLES, "")
    if _HUGE_PAGES in chosen:
        return {}
    return {_TUNABLES: ":".join([*filter(None, [chosen]), f"{_HUGE_PAGES}=1"])}


def tune_malloc(heaps: int = 1) -> bool:
    """Let the process keep what it frees, for its next blocks; return whether that could be arranged.

    To be called before the first thread starts: threads that have a heap of their own by then keep it, and such heaps
    are given back all the same. With several heaps, threads that take many small blocks wait less for each other.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    settings = ((_ARENA_MAX, heaps), (_TRIM_THRESHOLD, _LARGEST), (_MMAP_THRESHOLD, _MAPPED_FROM))
    done: list[int] = [mallopt(name, value) for name, value in settings]
    return all(done)


def trim() -> None:
    """Return what is free back to the system now, so that it counts as such."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _function(name: str) -> Any:
    # musl and macOS have no such functions.
    return getattr(ctypes.CDLL(None), name, None)
