"""Logs of the stack's processes: each writes its own file, which is turned over by size.

The processes write to the file themselves, not through a pipe of ours: what one has to say as it dies is kept even
when the supervisor died first.
"""

import os
import pathlib
import shutil
from typing import BinaryIO

from services.embedded import folders

MAXIMUM_BYTES = 10 * 1024 * 1024
KEPT = 3
_TAIL_BYTES = 4000


class Log:
    """The log file of one process."""

    def __init__(self, path: pathlib.Path, *, maximum_bytes: int = MAXIMUM_BYTES) -> None:
        self.path = path
        self._maximum_bytes = maximum_bytes
        self.trouble = ""

    def open(self) -> BinaryIO:
        """Open the file for a process to append to; what cannot be written goes nowhere, and `trouble` says why."""
        try:
            stream = self.path.open("ab")
            folders.hand_over(self.path)
        except OSError as error:
            self.trouble = folders.explain(error, f"opening the log {self.path}; what it would hold is lost")
            return pathlib.Path(os.devnull).open("ab")
        self.trouble = ""
        return stream

    def rotate(self) -> None:
        """Put a file that has grown too large aside as `.1`, the one before it as `.2`, and so on.

        The process keeps the file open, so it is copied and emptied, not renamed: the process appends, and goes on
        at the start.
        """
        try:
            self._rotate()
        except OSError as error:
            self.trouble = folders.explain(error, f"turning over the log {self.path}")

    def _rotate(self) -> None:
        if not self.path.is_file() or self.path.stat().st_size < self._maximum_bytes:
            return
        for number in range(KEPT - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{number + 1}"))
        aside = self.path.with_name(f"{self.path.name}.1")
        with self.path.open("rb+") as current:
            try:
                with aside.open("wb") as copy:
                    shutil.copyfileobj(current, copy)  # up to the end as it is now: next to nothing is left to be lost
            except OSError:
                # A disk without room for the copy needs the room that the log takes.
                aside.unlink(missing_ok=True)
            current.truncate(0)

    def tail(self) -> str:
        """Return the last lines."""
        try:
            with self.path.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - _TAIL_BYTES))
                return "\n".join(stream.read().decode(errors="replace").splitlines()[-12:])
        except OSError:
            return ""
