"""Files between the stages of a tokenization: arrays of numbers beside the files to come, under names of their own.

They belong to nothing that is published: `tokenize.publish` removes them, and the catalog's sweeper what a late attempt
leaves behind.
"""

import io
import tempfile
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytok import errors
from polytok.tokenizer.v1 import stages_pb2
from services.runtime.storage import Storage
from services.tokenizer.rows import ragged
from services.tokenizer.rows.ragged import Ids, Offsets, Ragged

PREFIX = "staged-"
"""What the names of these files begin with."""

_CHUNK_BYTES = 1 << 20
_ON_THIS_MACHINE = (io.BufferedReader, io.BufferedRandom)
_IDS, _MARKS = np.dtype("<i4"), np.dtype("<i8")


def key(folder: str, what: str, ordinal: int, count: int, tag: str) -> str:
    """Names the file of one task of a stage."""
    return f"{folder}/{PREFIX}{what}-{ordinal:05d}-of-{count:05d}-{tag}.bin"


def write(storage: Storage, key: str, *arrays: NDArray[Any]) -> str:
    """Writes arrays one after the other, and returns the key; nothing at all is no file, and has an empty key."""
    if not any(array.size for array in arrays):
        return ""
    with storage.create(key) as staged:
        for array in arrays:
            staged.write(np.ascontiguousarray(array).data.cast("B"))
    return key


def mapped(storage: Storage, key: str, dtype: type[np.generic] | np.dtype[Any], sha256: str = "") -> NDArray[Any]:
    """Maps a file into memory; one of a remote storage is copied first, and with a checksum the copy may be kept."""
    is_local = storage.local_path(key) is not None
    with storage.open_checked(key, sha256) if sha256 and not is_local else storage.open(key) as file:
        if is_local or isinstance(file, _ON_THIS_MACHINE):
            return np.asarray(np.memmap(file, np.uint8, "r")).view(dtype)
        with tempfile.TemporaryFile() as copy:
            while chunk := file.read(_CHUNK_BYTES):
                copy.write(chunk)
            copy.flush()
            return np.asarray(np.memmap(copy, np.uint8, "r")).view(dtype)


def remove(storage: Storage, folder: str) -> None:
    """Removes all such files of a folder."""
    for found in storage.list(folder):
        if found.rpartition("/")[2].startswith(PREFIX):
            storage.delete(found)


class Writer:
    """Writes the ids of a raw shard's documents as StagedDocuments describes; the file is there when the block ends."""

    def __init__(self, storage: Storage, key: str, first_row: int, num_rows: int) -> None:
        self._creating = storage.create(key)
        self._is_local = storage.local_path(key) is not None
        self._lengths: Offsets = np.zeros(num_rows, np.int64)
        self._is_taken: Offsets = np.zeros(num_rows, np.int64)
        self._size = 0
        self.documents = stages_pb2.StagedDocuments(key=key, first_row=first_row, num_rows=num_rows)
        """What was written, once the block has ended."""

    def __enter__(self) -> "Writer":
        self._file = self._creating.__enter__()
        if self._is_local:
            # It names the copies of remote files.
            self._file.leave_checksum_out()
        return self

    def write(self, documents: Ragged, rows: Offsets) -> None:
        """Appends the documents of these rows, which come after all before."""
        self._lengths[rows] = documents.lengths
        self._is_taken[rows] = 1
        self._size += len(documents.values)
        self._file.write(np.ascontiguousarray(documents.values, _IDS).data.cast("B"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            marks = 2 * ragged.offsets_of(self._lengths).astype(_MARKS)
            marks[:-1] += self._is_taken
            self._file.write(bytes(-4 * self._size % 8))
            self._file.write(marks.data.cast("B"))
            self.documents.num_ids = self._size
        self._creating.__exit__(kind, error, trace)
        self.documents.sha256 = self._file.sha256


class Reader:
    """The ids of a raw shard's documents, as they were written."""

    def __init__(self, storage: Storage, documents: stages_pb2.StagedDocuments) -> None:
        data = mapped(storage, documents.key, np.uint8, documents.sha256)
        begin = -(-4 * documents.num_ids // 8) * 8
        if len(data) != begin + 8 * (documents.num_rows + 1):
            raise errors.DataLoss(
                f"{documents.key}: the file's {len(data)} bytes are not the {begin + 8 * (documents.num_rows + 1)} "
                "that were written. Retry the tokenization.",
                metadata={"file": documents.key},
            )
        self.ids: Ids = data[: 4 * documents.num_ids].view(_IDS)
        """The ids of all documents."""
        self._marks: Offsets = data[begin:].view(_MARKS)

    def find(self, rows: Offsets) -> tuple[Offsets, Offsets, NDArray[np.bool_]]:
        """Returns where the documents of these rows begin, how long they are, and whether they are taken."""
        marks = self._marks[rows]
        return marks >> 1, (self._marks[rows + 1] >> 1) - (marks >> 1), (marks & 1).astype(np.bool_)
