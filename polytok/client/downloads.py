"""Download tokenizations and autoencoders from an object store.

A copy is named after the digest of the manifest, so it is never out of date. It gets its name once every file has been
compared with the manifest, so it is never incomplete. Tokenizations that share files share the copy.
"""

import hashlib
import pathlib
import secrets
import shutil
from collections.abc import Sequence
from concurrent import futures
from typing import Any, NamedTuple

from polytok import errors, manifests
from polytok.catalog.v1 import tokenizations_pb2
from polytok.trainer.v1 import trainings_pb2

_CHUNK_BYTES = 1 << 20
_AT_ONCE = 4


class Published(NamedTuple):
    """A folder in an object store with a manifest that lists its files."""

    name: str
    """The name of its record."""
    path: str
    """Its URI."""
    digest: str
    """Digest of the manifest; empty if there is none, and everything is copied unchecked."""
    when_changed: str
    """Advice for a missing or replaced file."""
    when_damaged: str
    """Advice for a damaged file."""
    unlisted: tuple[str, ...] = ()
    """Small files beside the manifest that it does not list."""
    part: str = ""
    """The only subfolder to copy, if not all of it."""


def tokenization(record: tokenizations_pb2.Tokenization) -> Published:
    """Return what to download for a tokenization."""
    return Published(
        record.name,
        record.tokenized_path,
        record.manifest_digest,
        f"Load it again. If the error persists, run `polytok tokenization verify {record.name}`.",
        f"Run `polytok tokenization repair {record.name}`, then load it again.",
        manifests.SIDECARS,
    )


def autoencoder(record: trainings_pb2.Training, sae: str) -> Published:
    """Return what to download for one autoencoder of a READY training."""
    again = "Restore the files in the store, or train again under another name."
    return Published(record.name, record.path, record.manifest_digest, again, again, part=sae)


def fetch(published: Published, folder: pathlib.Path) -> pathlib.Path:
    """Return the folder of the local copy, downloading it if it does not exist.

    Raises DataLoss for a damaged file, Aborted if files changed meanwhile, and any error of the store.
    """
    import fsspec  # noqa: PLC0415  comes with `datasets`

    filesystem, root = fsspec.core.url_to_fs(published.path, use_listings_cache=False)
    # A record from a version without manifests has no digest, so it is downloaded each time.
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
            # Another process finished first.
            if not copy.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return copy


class _Download:
    """One download."""

    def __init__(self, filesystem: Any, root: str, target: pathlib.Path, published: Published) -> None:
        self._filesystem = filesystem
        self._root = root
        self._target = target
        self._published = published

    def run(self) -> None:
        """Copy the small files first, then the others, a few at a time."""
        if not self._published.digest:
            self._filesystem.get(f"{self._root}/", f"{self._target}/", recursive=True)
            return
        if self._copy(manifests.NAME)[1] != self._published.digest:
            raise self._changed(manifests.NAME)
        for name in self._published.unlisted:
            self._copy(name)
        listed = manifests.decode((self._target / manifests.NAME).read_bytes())["files"]
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
                    f"{file['name']} of {self._published.name} is damaged: its checksum differs. "
                    f"{self._published.when_damaged}",
                    metadata={"file": file["name"]},
                )

    def _copy(self, name: str) -> tuple[int, str]:
        """Copy a file; return its size and sha256."""
        part = self._published.part
        own = name.removeprefix(f"{part}/") if part else name
        if pathlib.PurePosixPath(own).name != own or own in {"", ".", ".."}:
            raise errors.DataLoss(
                f"{manifests.NAME} of {self._published.name} lists {name!r}, which is not a plain file name."
            )
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
            f"{name} of {self._published.name} is missing or was replaced. {self._published.when_changed}",
            reason="RESOURCE_CHANGED",
            metadata={"resource": self._published.name},
        )
