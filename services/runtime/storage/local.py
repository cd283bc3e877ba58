"""A storage root that is a local folder."""

import contextlib
import enum
import os
import pathlib
import secrets
import shutil
import stat
from collections.abc import Generator
from typing import BinaryIO

from services.runtime.storage import flush_ahead, keys
from services.runtime.storage.staging import StagedFile


class Entry(enum.Enum):
    """What exists at a key."""

    NONE = "nothing"
    FILE = "a file"
    FOLDER = "a folder"
    LINK = "a symbolic link"
    SPECIAL = "a device, pipe or socket"


class LocalRoot:
    """Files below a folder. Symbolic links are followed as long as they stay below it."""

    def __init__(self, folder: str) -> None:
        self._folder = pathlib.Path(folder).absolute()
        with keys.translated("creating", str(self._folder)):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._real = os.path.realpath(self._folder)

    def uri(self, key: str) -> str:
        """Return the absolute path of a key, whatever exists there."""
        return str(self._folder / key)

    def path(self, key: str) -> pathlib.Path:
        """Return the path of a file; raise DataLoss if a link on the way leaves the root."""
        path = self._folder / key
        self._check_inside(path, key)
        return path

    def _entry(self, key: str) -> pathlib.Path:
        # The entry itself, even if it is a link to elsewhere: for removing or replacing it.
        path = self._folder / key
        self._check_inside(path.parent, key)
        return path

    def _check_inside(self, path: pathlib.Path, key: str) -> None:
        if not self._is_inside(path):
            # Keys contain no "..": only a link can lead out.
            steps = pathlib.PurePath(key)
            links = [step for step in (*reversed(steps.parents), steps) if not self._is_inside(self._folder / step)]
            raise keys.outside_link(key, links[0].as_posix())

    def _is_inside(self, path: pathlib.Path) -> bool:
        real = os.path.realpath(path)
        return real == self._real or real.startswith(self._real.rstrip("/") + "/")

    def entry(self, key: str) -> Entry:
        """Return what exists at the key itself; links are not followed."""
        try:
            mode = self._entry(key).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return Entry.NONE
        kinds = {stat.S_IFREG: Entry.FILE, stat.S_IFDIR: Entry.FOLDER, stat.S_IFLNK: Entry.LINK}
        return kinds.get(stat.S_IFMT(mode), Entry.SPECIAL)

    @contextlib.contextmanager
    def create(self, key: str) -> Generator[StagedFile]:
        """Write a temporary file beside the key and rename it at the end; a link there is replaced, not followed."""
        path = self._entry(key)
        with keys.translated("creating", key, place=self._folder):
            _make_folder(path.parent)
        # A long name leaves no room for a suffix within the 255 bytes that file systems allow.
        temporary = path.with_name(f".{path.name[:48]}.{secrets.token_hex(8)}.part")
        with keys.translated("creating", key, place=self._folder):
            sink = temporary.open("xb")
        try:
            staged = StagedFile(flush_ahead.BackgroundFlushFile(sink), key, place=self._folder)
            yield staged

            def publish() -> None:
                os.fsync(sink.fileno())
                temporary.replace(path)
                _sync_folder(path.parent)

            staged.finish(publish)
            sink.close()
        except BaseException:
            # On a full disk, closing fails again over what is not yet written; report the first failure.
            with contextlib.suppress(OSError):
                sink.close()
            temporary.unlink(missing_ok=True)
            raise

    def open(self, key: str) -> BinaryIO:
        """Open the file for reading."""
        return self.path(key).open("rb")

    def is_file(self, key: str) -> bool:
        """Return whether the file exists; False if only a link that leaves the root leads to it."""
        path = self._folder / key
        return self._is_inside(path) and path.is_file()

    def size(self, key: str) -> int:
        """Return the file's size in bytes."""
        return self.path(key).stat().st_size

    def move(self, source_key: str, target_key: str) -> None:
        """Rename a file, replacing any file of that name."""
        source, target = self.path(source_key), self._entry(target_key)
        # Before any folder is created, so that a missing source leaves no trace.
        source.stat()
        _make_folder(target.parent)
        source.replace(target)
        _sync_folder(target.parent)
        if source.parent != target.parent:
            _sync_folder(source.parent)

    def list(self, key: str) -> list[str]:
        """Return the keys of all files below a folder, including links, without entering them."""
        found = []
        for folder, folders, files in os.walk(self.path(key)):
            relative = pathlib.Path(folder).relative_to(self._folder)
            links = [name for name in folders if (pathlib.Path(folder) / name).is_symlink()]
            found += [(relative / name).as_posix() for name in (*files, *links)]
        return sorted(found)

    def delete(self, key: str) -> None:
        """Remove one file."""
        self._entry(key).unlink(missing_ok=True)

    def delete_tree(self, key: str) -> None:
        """Remove a folder with everything below it, or one file; a link is removed, never its target."""
        path = self._entry(key)
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def clear(self, key: str) -> None:
        """Remove a folder with everything below it, but never a file or link, even one that appears meanwhile."""
        if self.entry(key) is Entry.FOLDER:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                shutil.rmtree(self._entry(key))


def _make_folder(folder: pathlib.Path) -> None:
    """Create a folder and its parents, each of which is on disk before a file in it is."""
    missing = []
    current = folder
    while not current.exists():
        missing.append(current)
        current = current.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        _sync_folder(each.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
