"""The folder of one attempt at a training: where its files are written, and which of them are stored.

`{training}/{attempt}/checkpoints/step-…` and `{training}/{attempt}/saes/{name}/`. Where the storage is a folder, the
attempt writes there; otherwise it writes to a temporary folder, from which finished files are copied.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping

from polytok import errors
from polytok.trainer.v1 import tasks_pb2
from services.runtime.storage import Storage
from services.runtime.storage.checksums import damaged

CHECKPOINTS = "checkpoints"
EXPORTS = "saes"
_CHUNK_BYTES = 8 << 20
_CHECKPOINT = re.compile(r"step-\d{12}")


class Workspace:
    """The files of one attempt. `key` is its folder in the storage."""

    def __init__(self, storage: Storage, key: str, folder: pathlib.Path) -> None:
        self._storage = storage
        self.key = key
        self.folder = folder
        self._is_local = storage.local_path(key) == folder

    def restore(self, point: tasks_pb2.ResumePoint) -> None:
        """Restore an earlier attempt's checkpoints. Raises DataLoss if they are gone."""
        found = self._storage.list(point.key.rpartition("/")[0])
        if not any(key.startswith(f"{point.key}/") for key in found):
            raise errors.DataLoss(
                f"The checkpoint of step {point.step:,} is missing from the storage ({point.key}). Start over "
                "with `polytok training retry … --from-start`.",
                metadata={"key": point.key},
            )
        for key in found:
            *_, checkpoint, name = key.split("/")
            # Later checkpoints would skip metrics that the server never received.
            if _is_checkpoint(checkpoint) and _step(checkpoint) <= point.step:
                self._bring(key, self.folder / CHECKPOINTS / checkpoint / name)

    def _bring(self, key: str, target: pathlib.Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self._storage.local_path(key)
        if source is not None:
            with contextlib.suppress(OSError):  # another file system, or one without links
                os.link(source, target)
                return
            shutil.copyfile(source, target)
            return
        with self._storage.open(key) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, _CHUNK_BYTES)

    def checkpoint(self, step: int) -> tasks_pb2.ResumePoint:
        """Store the checkpoint of a step and return its key."""
        name = f"{CHECKPOINTS}/{_name(step)}"
        size = sum(self._keep(path, name) for path in sorted((self.folder / name).iterdir()))
        return tasks_pb2.ResumePoint(step=step, key=f"{self.key}/{name}", size_bytes=size)

    def prune(self, step: int, keep: int) -> list[int]:
        """Remove all checkpoints except those after `step` and the last `keep` up to it; return the remaining steps."""
        steps = sorted(
            _step(name) for path in (self.folder / CHECKPOINTS).iterdir() if _is_checkpoint(name := path.name)
        )
        needless = [each for each in steps if each <= step][:-keep]
        for each in needless:
            shutil.rmtree(self.folder / CHECKPOINTS / _name(each), ignore_errors=True)
            if not self._is_local:
                self._storage.delete_tree(f"{self.key}/{CHECKPOINTS}/{_name(each)}")
        return steps[len(needless) :]

    def exported(self, name: str, checksums: Mapping[str, str]) -> Iterator[tasks_pb2.ExportedFile]:
        """Store an exported autoencoder; return its files with the checksums of what was written.

        Raises DataLoss for a file that differs from what was written; another attempt writes it again.
        """
        folder = f"{EXPORTS}/{name}"
        for file, sha256 in sorted(checksums.items()):
            path = self.folder / folder / file
            found = _sha256(path) if self._is_local else self._upload(path, folder)
            if found != sha256:
                what = f"its sha256 is {found[:12]}…, not {sha256[:12]}…"
                advice = "Another attempt resumes from the last checkpoint and writes it again."
                raise damaged(f"{self.key}/{folder}/{file}", what, advice, retryable=True)
            yield tasks_pb2.ExportedFile(name=f"{name}/{file}", size_bytes=path.stat().st_size, sha256=sha256)

    def write(self, name: str, data: bytes) -> str:
        """Write a file beside the exports; return its sha256."""
        return self._storage.write_bytes(f"{self.key}/{EXPORTS}/{name}", data)

    def _keep(self, path: pathlib.Path, folder: str) -> int:
        if not self._is_local:
            self._upload(path, folder)
        return path.stat().st_size

    def _upload(self, path: pathlib.Path, folder: str) -> str:
        """Copy a file to the storage; return the sha256 of the stored file."""
        with path.open("rb") as file, self._storage.create(f"{self.key}/{folder}/{path.name}") as staged:
            while chunk := file.read(_CHUNK_BYTES):
                staged.write(chunk)
        return staged.sha256


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(step: int) -> str:
    return f"step-{step:012d}"


def _is_checkpoint(name: str) -> bool:
    return _CHECKPOINT.fullmatch(name) is not None


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


@contextlib.contextmanager
def open_workspace(storage: Storage, key: str) -> Iterator[Workspace]:
    """Return the workspace of an attempt."""
    local = storage.local_path(key)
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)
        yield Workspace(storage, key, local)
        return
    with tempfile.TemporaryDirectory(prefix="polytok-training-") as folder:
        yield Workspace(storage, key, pathlib.Path(folder))
