"""A storage in which a bit of a file is wrong as soon as it is written."""

import contextlib
import pathlib
import posixpath
import re
from collections.abc import Generator, Sequence

from services.runtime.storage import StagedFile, Storage

_TAG = re.compile(r"-[0-9a-f]{12}-e\d+|[-.](?:task\d+|publish)-e\d+w?")


def flip(path: pathlib.Path, place: float) -> None:
    """Change a bit of a file: of the first byte at 0, of the last one at 1."""
    data = bytearray(path.read_bytes())
    data[min(int(len(data) * place), len(data) - 1)] ^= 1 << 2
    path.write_bytes(data)


class Damaging(Storage):
    """Files of a folder; remembers what was written, and changes a bit of one file of that."""

    def __init__(self, root: str, victim: str = "", place: float = 0.5) -> None:
        """`victim` is a name as `written` has them."""
        super().__init__(root)
        self.written: list[str] = []
        """The files in order: their names without the attempt's tag, numbered where a name occurs again."""
        self.victim_key = ""
        """The key of the file that was damaged."""
        self._victim = victim
        self._place = place

    @contextlib.contextmanager
    def create(self, key: str) -> Generator[StagedFile]:
        """Write a file, and perhaps damages it."""
        with super().create(key) as staged:
            yield staged
        name = _TAG.sub("", posixpath.basename(key))
        before = sum(each.partition(" ")[0] == name for each in self.written)
        self.written.append(f"{name} {before}")
        if self.written[-1] == self._victim:
            path = self.local_path(key)
            assert path is not None
            flip(path, self._place)
            self.victim_key = key


def kinds(written: Sequence[str]) -> set[str]:
    """Return the kinds of files among those written: their names without numbers."""
    return {re.sub(r"-\d{5}(-of-\d{5})?", "", name.partition(" ")[0]) for name in written}
