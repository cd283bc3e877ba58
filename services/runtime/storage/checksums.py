"""A file that is hashed while it is read, and the error for a damaged one."""

import hashlib
from typing import BinaryIO

from polytok import errors

_CHUNK_BYTES = 1 << 20


class CheckedFile:
    """A file that hashes its content as it is read once, in order; pyarrow reads from it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read like any file."""
        data = self._file.read(size)
        self._digest.update(data)
        self.position += len(data)
        return data

    def readable(self) -> bool:
        """Return True, for pyarrow."""
        return True

    def drain(self) -> tuple[int, str]:
        """Read the rest; return size and sha256 of the whole file."""
        while self.read(_CHUNK_BYTES):
            pass
        return self.position, self._digest.hexdigest()


def damaged(key: str, what: str, advice: str, *, retryable: bool = False, shown: str = "") -> errors.DataLoss:
    """Return the error for a damaged file: `what` is wrong, and what to do about it.

    The message calls the file `shown`, where that says more to users than its key.
    """
    return errors.DataLoss(
        f"{shown or key} is damaged: {what}. {advice}",
        metadata={"file": key},
        retryable=retryable,
    )
