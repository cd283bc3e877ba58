"""Tuning of the C library's malloc, for processes that allocate the same large blocks over and over.

By default glibc returns large blocks to the system immediately and takes new ones, whose pages the kernel clears and
maps
on first touch. For a model on a CPU, whose layers allocate and free tens of megabytes many times a second, that took an
eighth of the processor time. See mallopt(3). On other C libraries nothing is done.
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
    """Return the environment variable that makes malloc of a new process use huge pages.

    A page of 2 MiB costs little more to get than one of 4 KiB. A value set by the user is kept. See "Memory Allocation
    Tunables" in glibc's manual; before 2.35, or without huge pages in the kernel, nothing changes.
    """
    chosen = os.environ.get(_TUNABLES, "")
    if _HUGE_PAGES in chosen:
        return {}
    return {_TUNABLES: ":".join([*filter(None, [chosen]), f"{_HUGE_PAGES}=1"])}


def tune_malloc(heaps: int = 1) -> bool:
    """Let the process keep freed memory for its next blocks; return whether that was possible.

    Call it before the first thread starts: threads that already have a heap of their own keep it, and such heaps are
    still returned to the system. With several heaps, threads that allocate many small blocks contend less.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    settings = ((_ARENA_MAX, heaps), (_TRIM_THRESHOLD, _LARGEST), (_MMAP_THRESHOLD, _MAPPED_FROM))
    done: list[int] = [mallopt(name, value) for name, value in settings]
    return all(done)


def trim() -> None:
    """Return free memory to the system now, so that it counts as free."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _function(name: str) -> Any:
    # musl and macOS lack these functions.
    return getattr(ctypes.CDLL(None), name, None)
