"""Reads files before they are published, and compares them with what was written."""

import hashlib
import mmap
import os
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Protocol, TypeVar

from services.runtime.storage.checksums import CheckedFile
from services.runtime.storage.root import Storage

_WINDOW_BYTES = 4 << 20


class File(Protocol):
    """A file, as the result of the task that wrote it describes it."""

    key: str
    size_bytes: int
    sha256: str


_File = TypeVar("_File", bound=File)


def measured(storage: Storage, key: str) -> tuple[int, str]:
    """Read a file of any size in little memory, without copies if it is on this machine; return its size and sha256."""
    path = storage.local_path(key)
    if path is None or not storage.size(key):
        with storage.open(key) as opened:
            return CheckedFile(opened).drain()
    with path.open("rb") as opened:
        pages = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
    digest = hashlib.sha256()
    with memoryview(pages) as view:
        for start in range(0, len(pages), _WINDOW_BYTES):
            digest.update(view[start : start + _WINDOW_BYTES])
            # A file's size is not the process's.
            pages.madvise(mmap.MADV_DONTNEED, start, min(_WINDOW_BYTES, len(pages) - start))
    return len(pages), digest.hexdigest()


def verify(
    storage: Storage,
    files: Sequence[_File],
    advice: str,
    report: Callable[[int, int], None],
    measure: Callable[[_File], tuple[int, str]] | None = None,
) -> None:
    """Compare files with what was written, several at a time; raises DataLoss, with the advice, for one that differs.

    `measure` gives size and sha256 of a file, where more is done with it than to read it.
    """
    total = sum(file.size_bytes for file in files)
    done = 0
    # Hashing and reading leave Python's lock to others: a thread a core.
    with futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = pool.map(measure or (lambda file: measured(storage, file.key)), files)
        for file, each in zip(files, found, strict=True):
            try:
                storage.compare(file.key, each, (file.size_bytes, file.sha256), advice)
            except BaseException:
                # The others need not be read.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            done += file.size_bytes
            report(done, total)
