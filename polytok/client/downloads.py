"""Copies of tokenizations and autoencoders that lie in an object store, on this machine.

A copy is named by the digest of the manifest, so it is never out of date, and is whole: it gets its name when every
file in it was checked against the manifest. Tokenizations that share files share the copy.
"""

import hashlib
import json
import pathlib
import secrets
import shutil
from collections.abc import Sequence
from concurrent import futures
from typing import Any, NamedTuple

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.trainer.v1 import trainings_pb2

_MANIFEST = "polytok.json"
_CHUNK_BYTES = 1 << 20
_AT_ONCE = 4


class Published(NamedTuple):
    """A folder in a store, with a manifest that lists its files."""

    name: str
    """The resource that it belongs to."""
    path: str
    """Its URI."""
    digest: str
    """Of the manifest; empty where there is none, and everything is copied as it is."""
    when_changed: str
    """What to do where a file is not there any more."""
    when_damaged: str
    """What to do where a file is not what was written."""
    unlisted: tuple[str, ...] = ()
    """Small files beside the manifest that it does not list."""
    part: str = ""
    """Copies this folder in it alone."""


def tokenization(record: tokenizations_pb2.Tokenization) -> Published:
    """Return what is copied of a tokenization."""
    return Published(
        record.name,
        record.tokenized_path,
        record.manifest_digest,
        f"Load it again; if this stays, `polytok tokenization verify {record.name}` tells what is wrong.",
        f"Mend it with `polytok tokenization repair {record.name}`, then load it again.",
        ("state.json", "dataset_info.json"),
    )


def autoencoder(record: trainings_pb2.Training, sae: str) -> Published:
    """Return what is copied of one autoencoder of a training that is READY."""
    again = "Train again under another name, or have the files brought back into the store."
    return Published(record.name, record.path, record.manifest_digest, again, again, part=sae)


def fetch(published: Published, folder: pathlib.Path) -> pathlib.Path:
    """Return the folder of the copy, which is made unless it is there.

    Raises DataLoss for a file that is not what was written, Aborted if files changed meanwhile; what the
    store raises is passed on.
    """
    import fsspec  # noqa: PLC0415  comes with `datasets`

    filesystem, root = fsspec.core.url_to_fs(published.path, use_listings_cache=False)
    # One taken over from a version without manifests has no digest: it is copied anew each time.
    copy = folder / ((published.digest or secrets.token_hex(16)) + (published.part and f"-{published.part}"))
    if copy.is_dir():
        return copy
    temporary = folder / f".{secrets.token_hex(8)}.part"
    temporary.mkdir(parents=True)
    try:
        _Download(filesystem, root.rstrip("/"), temporary, published).run()
        try:
            temporary.rename(copy)
        except OSError:
            # Another process was first.
            if not copy.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return copy


class _Download:
    """One copy in the making."""

    def __init__(self, filesystem: Any, root: str, target: pathlib.Path, published: Published) -> None:
        self._filesystem = filesystem
        self._root = root
        self._target = target
        self._published = published

    def run(self) -> None:
        """Copy the small files, and then the others, a few at a time."""
        if not self._published.digest:
            self._filesystem.get(f"{self._root}/", f"{self._target}/", recursive=True)
            return
        if self._copy(_MANIFEST)[1] != self._published.digest:
            raise self._changed(_MANIFEST)
        for name in self._published.unlisted:
            self._copy(name)
        listed = json.loads((self._target / _MANIFEST).read_bytes())["files"]
        part = self._published.part
        files = [file for file in listed if not part or file["name"].startswith(f"{part}/")]
        with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                self._check_all(files, pool)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _check_all(self, files: Sequence[dict[str, Any]], pool: futures.Executor) -> None:
        copied = pool.map(self._copy, [file["name"] for file in files])
        for file, found in zip(files, copied, strict=True):
            if found != (file["size_bytes"], file["sha256"]):
                raise errors.DataLoss(
                    f"{file['name']} of {self._published.name} does not hold what was written. "
                    f"{self._published.when_damaged}",
                    metadata={"file": file["name"]},
                )

    def _copy(self, name: str) -> tuple[int, str]:
        """Copy a file; return its size and its sha256."""
        part = self._published.part
        own = name.removeprefix(f"{part}/") if part else name
        if pathlib.PurePosixPath(own).name != own or own in {"", ".", ".."}:
            raise errors.DataLoss(f"{_MANIFEST} of {self._published.name} names {name!r}, which is no file in it.")
        digest, size = hashlib.sha256(), 0
        try:
            with (
                self._filesystem.open(f"{self._root}/{name}", "rb") as source,
                (self._target / own).open("xb") as sink,
            ):
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    size += sink.write(chunk)
        except FileNotFoundError as error:
            if error.__cause__ is not None:
                raise
            raise self._changed(name) from error
        return size, digest.hexdigest()

    def _changed(self, name: str) -> errors.Aborted:
        return errors.Aborted(
            f"{name} of {self._published.name} is missing, or not the one on record. {self._published.when_changed}",
            reason="RESOURCE_CHANGED",
            metadata={"resource": self._published.name},
        )
