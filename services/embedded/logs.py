"""Log files of the stack's processes, rotated by size.

Each process writes to its file directly and not through a pipe of the supervisor, so its last words are kept even if
the supervisor died first.
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
        """Open the file for a process to append to. On failure, discard the output and set `trouble` to the reason."""
        try:
            stream = self.path.open("ab")
            folders.hand_over(self.path)
        except OSError as error:
            self.trouble = folders.explain(error, f"opening the log {self.path}, so the output is discarded")
            return pathlib.Path(os.devnull).open("ab")
        self.trouble = ""
        return stream

    def rotate(self) -> None:
        """Rotate the file if it is too large: it becomes `.1`, the one before becomes `.2`, and so on.

        The process keeps the file open in append mode, so the file is copied and truncated, not renamed.
        """
        try:
            self._rotate()
        except OSError as error:
            self.trouble = folders.explain(error, f"rotating the log {self.path}")

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
                    shutil.copyfileobj(current, copy)  # up to the current end: next to nothing is lost
            except OSError:
                # A disk too full for the copy needs the space of the log.
                aside.unlink(missing_ok=True)
            current.truncate(0)

    def tail(self) -> str:
        """Return the last lines of the log."""
        try:
            with self.path.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - _TAIL_BYTES))
                return "\n".join(stream.read().decode(errors="replace").splitlines()[-12:])
        except OSError:
            return ""
