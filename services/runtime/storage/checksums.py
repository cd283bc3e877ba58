"""A file that is hashed as it is read, and what is said of one that is not what was written."""

import hashlib
from typing import BinaryIO

from polytok import errors

_CHUNK_BYTES = 1 << 20


class CheckedFile:
    """A file that hashes what is read of it, once and in order; pyarrow reads from it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read, as every file does."""
        data = self._file.read(size)
        self._digest.update(data)
        self.position += len(data)
        return data

    def readable(self) -> bool:
        """Tell pyarrow that it may read."""
        return True

    def drain(self) -> tuple[int, str]:
        """Read what is left; gives size and sha256 of the whole file."""
        while self.read(_CHUNK_BYTES):
            pass
        return self.position, self._digest.hexdigest()


def damaged(key: str, what: str, advice: str, *, retryable: bool = False, shown: str = "") -> errors.DataLoss:
    """Return the error for a file that is not what was written: `what` is wrong, and what to do about it.

    The message calls the file `shown`, where that says more to users than its key.
    """
    return errors.DataLoss(
        f"{shown or key} does not hold what was written: {what}. {advice}",
        metadata={"file": key},
        retryable=retryable,
    )
