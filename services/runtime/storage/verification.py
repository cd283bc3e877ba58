"""Check files against their checksums before they are published."""

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
    """A file, as described in the result of the task that wrote it."""

    key: str
    size_bytes: int
    sha256: str


_File = TypeVar("_File", bound=File)


def measured(storage: Storage, key: str) -> tuple[int, str]:
    """Read a file with little memory, without copying if it is local; return its size and sha256."""
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
            # The size of a mapped file is not memory of the process.
            pages.madvise(mmap.MADV_DONTNEED, start, min(_WINDOW_BYTES, len(pages) - start))
    return len(pages), digest.hexdigest()


def verify(
    storage: Storage,
    files: Sequence[_File],
    advice: str,
    report: Callable[[int, int], None],
    measure: Callable[[_File], tuple[int, str]] | None = None,
) -> None:
    """Check several files in parallel; raise DataLoss, with the advice, for one that differs.

    `measure` returns size and sha256 of a file, if reading it should do more.
    """
    total = sum(file.size_bytes for file in files)
    done = 0
    # Hashing and reading release the GIL: one thread per core.
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
