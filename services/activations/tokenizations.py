"""Tokenizations as extractor and trainer read them: found by manifest, checked by sha256, memory-mapped.

The manifest, `polytok.json`, is read by the digest from the catalog, so that files which were deleted or recreated in
between are never mistaken for the requested ones. Imports no torch.
"""

import functools
import hashlib
import pathlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from polytok import errors, manifests
from services.runtime.storage import Storage


@dataclass(frozen=True)
class TokenizationFile:
    """An Arrow file of a tokenization (IPC stream, as `datasets` writes it)."""

    key: str
    num_rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class TokenizationManifest:
    """What a published tokenization consists of."""

    name: str
    """Resource name of the request, `datasets/{dataset}/tokenizations/{model}`; the files may be shared with the
    tokenization that made them.
    """
    files: Sequence[TokenizationFile]
    """In row order."""
    parameters: Mapping[str, Any]
    """A polytok.catalog.v1.TokenizationParameters as JSON."""
    tokenizer: Mapping[str, Any]
    """repo_id, revision, fingerprint, vocab_size."""
    statistics: Mapping[str, Any]
    """A polytok.catalog.v1.TokenizationStatistics, numbers as numbers."""

    @functools.cached_property
    def num_rows(self) -> int:
        """Sequences in all files."""
        return sum(file.num_rows for file in self.files)


def read_manifest(storage: Storage, name: str, key: str, digest: str) -> TokenizationManifest:
    """Read the manifest in a tokenization's folder.

    Raises FailedPrecondition (RESOURCE_CHANGED) unless it has this sha256: the tokenization was deleted or recreated.
    """
    if not digest:
        raise errors.FailedPrecondition(
            f"{name} was imported from an earlier version and has no checksums. Delete it and tokenize again: "
            f"{_command(name)}.",
            reason="NOT_READY",
            metadata={"resource": name},
        )
    try:
        data = storage.read_bytes(f"{key}/{manifests.NAME}")
    except errors.NotFound:
        raise _changed(name, "was deleted") from None
    found = manifests.decode_checked(data, digest)
    if found is None:
        raise _changed(name, "was recreated")
    files = [
        TokenizationFile(posixpath.join(key, file["name"]), file["num_rows"], file["size_bytes"], file["sha256"])
        for file in found["files"]
    ]
    return TokenizationManifest(name, files, found["parameters"], found["tokenizer"], found["statistics"])


class TokenizationReader:
    """Opens files of tokenizations; each is checked against its checksum whenever it is opened."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def open(self, manifest: TokenizationManifest, first_row: int = 0, num_rows: int | None = None) -> pa.Table:
        """Return all rows of a tokenization, of which the requested ones may be read.

        By default these are all rows from `first_row`. The files are memory-mapped. Those of a remote storage are
        fetched if they hold requested rows; the rows of the others are null. Raises DataLoss, which names the file, if
        a file with requested rows is damaged, and FailedPrecondition (RESOURCE_CHANGED) if a file is gone.
        """
        end = manifest.num_rows if num_rows is None else first_row + num_rows
        if not first_row < min(end, manifest.num_rows):
            raise errors.InvalidArgument(
                f"{manifest.name} has {manifest.num_rows} rows; rows {first_row} to {end - 1} do not exist."
            )
        found: list[pa.Table | None] = []
        start = 0
        for file in manifest.files:
            wanted = start + file.num_rows > first_row and start < end
            found.append(self._open(manifest.name, file, wanted=wanted))
            start += file.num_rows
        schema = next(table.schema for table in found if table is not None)
        pairs = zip(found, manifest.files, strict=True)
        return pa.concat_tables([_nulls(schema, file.num_rows) if table is None else table for table, file in pairs])

    def _open(self, name: str, file: TokenizationFile, *, wanted: bool) -> pa.Table | None:
        path = self._storage.local_path(file.key)
        if path is None and not wanted:
            return None
        try:
            path = path or self._copied(file)
            if path is None:
                content: Any = pa.py_buffer(self._storage.read_bytes(file.key))
            else:
                content = pa.memory_map(str(path)).read_buffer()
            if wanted:
                self._check(name, file, content)
            with pa.ipc.open_stream(content) as stream:
                return stream.read_all()
        except (errors.NotFound, FileNotFoundError):
            raise _changed(name, "was deleted") from None
        except pa.ArrowInvalid as error:
            raise errors.DataLoss(
                f"{posixpath.basename(file.key)} of {name} is not a valid Arrow stream ({error}). "
                f"{_repair_advice(name)}",
                metadata={"file": file.key},
            ) from error

    def _copied(self, file: TokenizationFile) -> pathlib.Path | None:
        """Return the local copy of a remote file, if the storage keeps copies."""
        with self._storage.open_checked(file.key, file.sha256) as opened:
            found = pathlib.Path(str(getattr(opened, "name", "")))
            return found if found.is_absolute() and found.is_file() else None

    def _check(self, name: str, file: TokenizationFile, content: pa.Buffer) -> None:
        # Checked in the mapping that rows are read from, each time: the disk may have changed since the last check.
        sha256 = hashlib.sha256(content).hexdigest()
        if (sha256, content.size) != (file.sha256, file.size_bytes):
            what = (
                f"{content.size} bytes with sha256 {sha256[:12]}…, not {file.size_bytes} bytes with {file.sha256[:12]}…"
            )
            shown = f"{posixpath.basename(file.key)} of {name}"
            raise self._storage.damaged(file.key, what, _repair_advice(name), sha256=file.sha256, shown=shown)


def _nulls(schema: pa.Schema, count: int) -> pa.Table:
    return pa.table([pa.nulls(count, field.type) for field in schema], schema=schema)


def _changed(name: str, what: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        f"{name} {what} since this was created. If it does not exist, create it with {_command(name)}; then retry.",
        reason="RESOURCE_CHANGED",
        metadata={"resource": name},
    )


def _repair_advice(name: str) -> str:
    command = _command(name, "tokenization repair {} {}")
    return f"Repair it with {command}, which rebuilds the damaged files, and then retry."


def _command(name: str, form: str = "tokenize {} --model {}") -> str:
    """Return the command line that creates a tokenization, or another one for it."""
    _, dataset, _, model = name.split("/")
    model, _, variant = model.partition("~")
    return f"`polytok {form.format(dataset, model)}{f' --variant {variant}' if variant else ''}`"
