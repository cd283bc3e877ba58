"""The files of an extraction, memory-mapped; bytes are checked when they are read.

The manifest names a file with a digest for each block of the others (`services.runtime.storage.blocks`). What is
parsed when files are opened is checked first: the headers of record batches and everything but the activations. A
training reads the activations for hours, in any order; they are checked block by block on every read.
"""

import bisect
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray

from polytok import errors
from services.runtime.storage import blocks, checksums


class ExtractionFiles:
    """All rows of a published extraction."""

    def __init__(self, folder: pathlib.Path, manifest: Mapping[str, Any], name: str) -> None:
        """`name` is used in messages. Raises DataLoss for damaged files."""
        self._name = name or folder.name
        self._files: list[blocks.Blocks] = []
        digests = self._digests(folder, manifest["blocks"])
        batches: list[pa.RecordBatch] = []
        for file in manifest["files"]:
            content = np.asarray(np.memmap(folder / file["name"], np.uint8, "r"))
            checked = blocks.Blocks(
                content,
                digests[file["name"]].tolist(),
                lambda what, file=file["name"]: self._damaged(file, what),  # type: ignore[misc]
                block_bytes=manifest["blocks"]["block_bytes"],
            )
            self._files.append(checked)
            try:
                found = _batches(checked)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise self._damaged(file["name"], f"it is not an Arrow stream ({error})") from error
            if sum(batch.num_rows for batch in found) != file["num_rows"]:
                raise self._damaged(file["name"], f"it does not have {file['num_rows']} rows")
            batches += found
        self._files.sort(key=_address)
        self._addresses = [_address(each) for each in self._files]
        self.table = pa.Table.from_batches(batches)
        """The rows; check what is read of them."""
        self.features = datasets.Features.from_arrow_schema(self.table.schema)

    def check(self, array: NDArray[Any]) -> None:
        """Raise DataLoss if an array, a part of the mapped files, is damaged."""
        if not array.size:
            return
        begin = int(array.__array_interface__["data"][0])
        file = self._files[max(0, bisect.bisect_right(self._addresses, begin) - 1)]
        _check(file, begin, array.nbytes)

    def _digests(self, folder: pathlib.Path, listed: Mapping[str, Any]) -> dict[str, NDArray[np.uint64]]:
        data = (folder / listed["name"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != listed["sha256"]:
            raise self._damaged(listed["name"], "its sha256 differs")
        return safetensors.numpy.load(data)

    def _damaged(self, file: str, what: str) -> errors.DataLoss:
        return _damaged(self._name, file, what)


def check_whole(folder: pathlib.Path, manifest: Mapping[str, Any], name: str) -> None:
    """Read and check all files of an extraction of an earlier version, without digests of blocks; raises DataLoss."""
    for file in manifest.get("files", ()):
        with (folder / file["name"]).open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file["sha256"]:
                raise _damaged(name or folder.name, file["name"], "its sha256 differs")


def _damaged(name: str, file: str, what: str) -> errors.DataLoss:
    return checksums.damaged(f"{file} of {name}", what, "Delete the extraction and extract again.")


def _batches(file: blocks.Blocks) -> list[pa.RecordBatch]:
    schema: pa.Schema | None = None
    found = []
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(file.content)):
        _check(file, message.metadata.address, message.metadata.size)
        if schema is None:
            schema = pa.ipc.read_schema(message)
            continue
        batch = pa.ipc.read_record_batch(message, schema)
        for column in batch.columns:
            for buffer in _parsed(column):
                _check(file, buffer.address, buffer.size)
        found.append(batch)
    return found


def _parsed(column: pa.Array) -> Sequence[pa.Buffer]:
    """Return the buffers of all columns except the activations: offsets, and columns of a few numbers per token."""
    whole = column.buffers()
    return [buffer for buffer in (whole[:-1] if isinstance(column.type, pa.ExtensionType) else whole) if buffer]


def _check(file: blocks.Blocks, address: int, size: int) -> None:
    begin = address - _address(file)
    if not 0 <= begin <= begin + size <= len(file.content):
        raise errors.Internal("These bytes of an extraction are not in its files.", retryable=False)
    file.read(begin, begin + size)


def _address(file: blocks.Blocks) -> int:
    return int(file.content.__array_interface__["data"][0])
