"""Atomic, checksummed checkpoints, of which the last few are kept.

A checkpoint `step-000000001000` holds safetensors files and a `manifest.json` with the rest of the state, the size and
sha256 of every file as its bytes were in memory, and a sha256 of itself. It is written beside its final path, synced,
and renamed; nothing in it is ever unpickled. If the newest checkpoint is damaged, the one before it is used.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

from polytok import disk_space, errors
from services.runtime.telemetry import logging
from services.trainer.sae import tensor_file
from services.trainer.sae.data.dataset import CheckpointState

FORMAT = 1
"""Version of the manifest's layout."""

_NAME = re.compile(r"step-(\d{12})")
_PART = ".part"
_MANIFEST = "manifest.json"

_log = logging.get(__name__)


def _all(_: str) -> bool:
    return True


class Checkpoint(NamedTuple):
    """An existing checkpoint; whether its bytes are correct is known once it is read."""

    name: str
    step: int
    size_bytes: int
    created_at: float
    """Seconds since 1970, by this machine's clock."""


class LoadedCheckpoint(NamedTuple):
    """The states that were read, and what to report about it."""

    step: int
    states: dict[str, CheckpointState]
    values: dict[str, Any]
    damaged: list[str]
    """A sentence for each newer checkpoint that was skipped."""


class CheckpointWriter:
    """A checkpoint being written: files by name, one state each."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def add(self, name: str, state: CheckpointState) -> dict[str, Any]:
        """Write a state as `{name}.safetensors`; return its entry for the manifest."""
        path = self._folder / f"{name}.safetensors"
        written = tensor_file.write(path, state.tensors)
        return {"file": path.name, **written._asdict(), "values": state.values}


class Checkpoints:
    """The checkpoints of one training, in a folder of their own."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2) -> None:
        self._folder = folder
        self._keep = max(1, keep)
        self._damaged: set[str] = set()

    def save(self, step: int, states: Mapping[str, CheckpointState], values: Mapping[str, Any]) -> Checkpoint:
        """Write a checkpoint of named states, and remove old ones.

        Raises `errors.ResourceExhausted` on a full disk; earlier checkpoints are untouched.
        """
        with self.writing(step) as writing:
            return self.publish(step, {name: writing.add(name, state) for name, state in states.items()}, values)

    @contextlib.contextmanager
    def writing(self, step: int) -> Generator[CheckpointWriter]:
        """Yield a checkpoint to write to; it is removed at the end of the block unless it was published."""
        folder = self._part(step)
        with self._translated(step):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                yield CheckpointWriter(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def publish(self, step: int, files: Mapping[str, Any], values: Mapping[str, Any]) -> Checkpoint:
        """Add the manifest to a written checkpoint and rename it.

        `files` maps names to the results of `CheckpointWriter.add`.
        """
        folder = self._part(step)
        content = {"format": FORMAT, "step": step, "files": dict(files), "values": dict(values)}
        manifest = folder / _MANIFEST
        manifest.write_text(json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n")
        _sync(manifest)
        _sync(folder)
        final = self._folder / _name(step)
        # An unreadable checkpoint must not displace a good one among those that are kept.
        for name in {final.name, *self._damaged}:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self._damaged.clear()
        folder.rename(final)
        _sync(self._folder)
        self._remove_old()
        return _described(final)

    def list(self) -> list[Checkpoint]:
        """Return all checkpoints, oldest first."""
        if not self._folder.is_dir():
            return []
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return [_described(path) for path in sorted(found)]

    def latest(self, device: str = "cpu", wanted: Callable[[str], bool] = _all) -> LoadedCheckpoint | None:
        """Read the newest intact checkpoint, or return None if there is none.

        Raises `errors.DataLoss` if all are damaged. Every file is checked; only the states wanted by name are loaded.
        """
        damaged: list[str] = []
        for checkpoint in reversed(self.list()):
            try:
                states, values = self._read(self._folder / checkpoint.name, device, wanted)
            except errors.DataLoss as error:
                _log.warning("checkpoint is damaged", checkpoint=checkpoint.name, error=error.message)
                damaged.append(error.message)
                self._damaged.add(checkpoint.name)
                continue
            return LoadedCheckpoint(checkpoint.step, states, values, damaged)
        if damaged:
            raise errors.DataLoss(
                f"No checkpoint can be read. {' '.join(damaged)} Start the training over, without resuming."
            )
        return None

    def clear(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _part(self, step: int) -> pathlib.Path:
        return self._folder / f"{_name(step)}{_PART}"

    def _remove_old(self) -> None:
        for path in self._folder.iterdir():
            if path.name.endswith(_PART):
                shutil.rmtree(path, ignore_errors=True)
        for checkpoint in self.list()[: -self._keep]:
            shutil.rmtree(self._folder / checkpoint.name, ignore_errors=True)

    @contextlib.contextmanager
    def _translated(self, step: int) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(step, error) from error

    def _failure(self, step: int, error: OSError) -> errors.PolytokError:
        number = error.errno or 0
        kept = self.list()
        rest = f"The checkpoint of step {kept[-1].step:,} is kept" if kept else "There is no earlier checkpoint"
        cause = os.strerror(number) if number else str(error)
        if disk_space.is_full_number(number):
            found = disk_space.full(f"writing the checkpoint of step {step:,}", self._folder, then="then resume")
            return errors.ResourceExhausted(f"{found.message} {rest}.", reason=found.reason, retryable=True)
        message = f"{cause} while writing the checkpoint of step {step:,} to {self._folder}. {rest}; then resume."
        return errors.Unavailable(message, reason="STORAGE_FAILED")

    def _read(
        self, folder: pathlib.Path, device: str, wanted: Callable[[str], bool]
    ) -> tuple[dict[str, CheckpointState], dict[str, Any]]:
        content = _manifest(folder)
        states = {}
        for name, entry in content["files"].items():
            path = folder / pathlib.PurePath(entry["file"]).name
            if not path.is_file():
                raise errors.DataLoss(f"{folder.name}/{path.name} is missing.")
            written = tensor_file.WrittenFile(entry["size_bytes"], entry["sha256"])
            try:
                if wanted(name):
                    states[name] = CheckpointState(tensor_file.read(path, written, device), entry["values"])
                else:
                    tensor_file.check(path, written)
            except tensor_file.DamagedFile:
                raise errors.DataLoss(f"{folder.name}/{path.name} is damaged (sha256 differs).") from None
        return states, content["values"]


def _name(step: int) -> str:
    return f"step-{step:012d}"


def _described(folder: pathlib.Path) -> Checkpoint:
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    sizes = [path.stat().st_size for path in folder.iterdir()]
    return Checkpoint(folder.name, int(match[1]), sum(sizes), folder.stat().st_mtime)


def _manifest(folder: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / _MANIFEST).read_bytes())
        written = content.pop("sha256")
        if written == _digest(content) and content["format"] == FORMAT:
            return dict(content)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass
    raise errors.DataLoss(f"{folder.name}/{_MANIFEST} is damaged.")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
