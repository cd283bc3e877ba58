"""Copies of tokenizations that lie in an object store, on this machine.

A copy is named by the digest of the tokenization's manifest, so it is never out of date, and is whole: it gets its name
when every file in it was checked against the manifest. Tokenizations that share files share the copy.
"""

import hashlib
import json
import pathlib
import secrets
import shutil
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2 as pb

_MANIFEST = "polytok.json"
_SMALL = ("state.json", "dataset_info.json")
_CHUNK_BYTES = 1 << 20
_AT_ONCE = 4


def fetch(tokenization: pb.Tokenization, folder: pathlib.Path) -> pathlib.Path:
    """The folder of the copy, which is made unless it is there.

    Raises DataLoss for a file that is not what was written, Aborted if the tokenization changed meanwhile; what the
    store raises is passed on.
    """
    import fsspec  # noqa: PLC0415  comes with `datasets`

    filesystem, root = fsspec.core.url_to_fs(tokenization.tokenized_path, use_listings_cache=False)
    # One taken over from a version without manifests has no digest: it is copied anew each time.
    copy = folder / (tokenization.manifest_digest or secrets.token_hex(16))
    if copy.is_dir():
        return copy
    temporary = folder / f".{secrets.token_hex(8)}.part"
    temporary.mkdir(parents=True)
    try:
        _Copying(filesystem, root.rstrip("/"), temporary, tokenization).run()
        try:
            temporary.rename(copy)
        except OSError:
            # Another process was first.
            if not copy.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return copy


class _Copying:
    """One copy in the making."""

    def __init__(self, filesystem: Any, root: str, target: pathlib.Path, tokenization: pb.Tokenization) -> None:
        self._filesystem = filesystem
        self._root = root
        self._target = target
        self._tokenization = tokenization

    def run(self) -> None:
        """Copies the small files, and then the others, a few at a time."""
        if not self._tokenization.manifest_digest:
            self._filesystem.get(f"{self._root}/", f"{self._target}/", recursive=True)
            return
        if self._copy(_MANIFEST)[1] != self._tokenization.manifest_digest:
            raise self._changed(_MANIFEST)
        for name in _SMALL:
            self._copy(name)
        files = json.loads((self._target / _MANIFEST).read_bytes())["files"]
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
                    f"{file['name']} of {self._tokenization.name} does not hold what was written. Mend it with "
                    f"`polytok tokenization repair {self._tokenization.name}`, then load it again.",
                    metadata={"file": file["name"]},
                )

    def _copy(self, name: str) -> tuple[int, str]:
        """Copies a file; gives its size and its sha256."""
        if pathlib.PurePosixPath(name).name != name or name in {"", ".", ".."}:
            raise errors.DataLoss(f"{_MANIFEST} of {self._tokenization.name} names {name!r}, which is no file in it.")
        digest, size = hashlib.sha256(), 0
        try:
            with (
                self._filesystem.open(f"{self._root}/{name}", "rb") as source,
                (self._target / name).open("xb") as sink,
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
            f"{name} of {self._tokenization.name} is missing, or not the one on record. Load it again; if this stays, "
            f"`polytok tokenization verify {self._tokenization.name}` tells what is wrong.",
            reason="RESOURCE_CHANGED",
            metadata={"resource": self._tokenization.name},
        )
