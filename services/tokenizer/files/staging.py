"""Staged files between the stages of a tokenization: arrays of numbers under names of their own.

They are not part of what is published: `tokenize.publish` removes them, and garbage collection what a late attempt
leaves behind. The result of the task that wrote a file contains its checksum, which is checked on reading.
"""

import io
import tempfile
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polytok import errors
from polytok.tokenizer.v1 import stages_pb2
from services.runtime.storage import Storage, blocks
from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.ragged import Ids, Offsets, Ragged
from services.tokenizer.sequences.row_copy import copy_rows

PREFIX = "staged-"
"""Prefix of the names of these files."""

ADVICE = "It is an intermediate file of a job: retry the job to write it again."
"""Advice for a file that was changed."""

_CHUNK_BYTES = 1 << 20
_ON_THIS_MACHINE = (io.BufferedReader, io.BufferedRandom)
_IDS, _MARKS = np.dtype("<i4"), np.dtype("<i8")


class Staged(NamedTuple):
    """A file and its checksum."""

    key: str = ""
    sha256: str = ""


def key(folder: str, what: str, ordinal: int, count: int, tag: str) -> str:
    """Return the key of the file of one task of a stage."""
    return f"{folder}/{PREFIX}{what}-{ordinal:05d}-of-{count:05d}-{tag}.bin"


def write(storage: Storage, key: str, *arrays: NDArray[Any]) -> Staged:
    """Write arrays one after the other, to be read as a whole.

    Without content there is no file, and the key is empty.
    """
    if not any(array.size for array in arrays):
        return Staged()
    with storage.create(key) as staged:
        for array in arrays:
            staged.write(_bytes(array))
    return Staged(key, staged.sha256)


def read(storage: Storage, staged: Staged, dtype: type[np.generic] | np.dtype[Any]) -> NDArray[Any]:
    """Read the output of `write`. Raises DataLoss if it was changed."""
    return np.frombuffer(storage.read_checked(*staged, ADVICE), dtype)


def write_blocks(storage: Storage, key: str, *arrays: NDArray[Any]) -> Staged:
    """Write arrays one after the other, to be mapped; the checksum covers the digests of their blocks."""
    with storage.create(key) as staged:
        writer = blocks.Writer(staged)
        for array in arrays:
            writer.write(_bytes(array))
        sha256 = writer.finish()
    return Staged(key, sha256)


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")


class Mapped:
    """A memory-mapped file of blocks; a file of a remote storage is copied first."""

    def __init__(self, storage: Storage, staged: Staged, file_sha256: str = "") -> None:
        """With the sha256 of the file, a copy may be cached. Raises DataLoss if the digests were changed."""
        self._storage = storage
        self._key = staged.key
        self._file_sha256 = file_sha256
        self.content, self._digests = blocks.opened(self._map(), staged.sha256, self.damaged)
        """The unchecked content."""

    def checked(self, *, once: bool = False) -> blocks.Blocks:
        """Return a function that checks bytes before use, every time or once."""
        return blocks.Blocks(self.content, self._digests, self.damaged, once=once)

    def damaged(self, what: str) -> errors.DataLoss:
        """Return the error for a damaged file."""
        return self._storage.damaged(self._key, what, ADVICE, sha256=self._file_sha256)

    def _map(self) -> blocks.Bytes:
        storage, key, sha256 = self._storage, self._key, self._file_sha256
        is_local = storage.local_path(key) is not None
        with storage.open_checked(key, sha256) if sha256 and not is_local else storage.open(key) as file:
            if is_local or isinstance(file, _ON_THIS_MACHINE):
                return np.asarray(np.memmap(file, np.uint8, "r"))
            with tempfile.TemporaryFile() as copy:
                while chunk := file.read(_CHUNK_BYTES):
                    copy.write(chunk)
                copy.flush()
                return np.asarray(np.memmap(copy, np.uint8, "r"))


def remove(storage: Storage, folder: str) -> None:
    """Remove all staged files of a folder."""
    for found in storage.list(folder):
        if found.rpartition("/")[2].startswith(PREFIX):
            storage.delete(found)


class Writer:
    """Writes the ids of a raw shard's documents as StagedDocuments describes; the file exists when the block ends."""

    def __init__(self, storage: Storage, key: str, first_row: int, num_rows: int) -> None:
        self._creating = storage.create(key)
        self._is_local = storage.local_path(key) is not None
        self._lengths: Offsets = np.zeros(num_rows, np.int64)
        self._is_taken: Offsets = np.zeros(num_rows, np.int64)
        self._size = 0
        self.documents = stages_pb2.StagedDocuments(key=key, first_row=first_row, num_rows=num_rows)
        """The written file, after the end of the block."""

    def __enter__(self) -> "Writer":
        self._file = self._creating.__enter__()
        self._blocks = blocks.Writer(self._file)
        if self._is_local:
            # The name of cached copies of remote files.
            self._file.leave_checksum_out()
        return self

    def write(self, documents: Ragged, rows: Offsets) -> None:
        """Append the documents of these rows, which follow all earlier ones."""
        self._lengths[rows] = documents.lengths
        self._is_taken[rows] = 1
        self._size += len(documents.values)
        self._blocks.write(_bytes(documents.values.astype(_IDS, copy=False)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            marks = 2 * ragged.offsets_of(self._lengths).astype(_MARKS)
            marks[:-1] += self._is_taken
            self._blocks.write(memoryview(bytes(-4 * self._size % 8)))
            self._blocks.write(_bytes(marks))
            self.documents.num_ids = self._size
            self.documents.digests_sha256 = self._blocks.finish()
        self._creating.__exit__(kind, error, trace)
        self.documents.sha256 = self._file.sha256


class Reader:
    """Reads the ids of a raw shard's documents."""

    def __init__(self, storage: Storage, documents: stages_pb2.StagedDocuments) -> None:
        mapped = Mapped(storage, Staged(documents.key, documents.digests_sha256), documents.sha256)
        size = len(mapped.content)
        self._begin = -(-4 * documents.num_ids // 8) * 8
        written = self._begin + 8 * (documents.num_rows + 1)
        if size != written:
            raise mapped.damaged(f"it has {size} bytes of content instead of {written}")
        self._id_blocks = mapped.checked()
        # Marks are few bytes each, and a block has hundreds of them.
        self._mark_blocks = mapped.checked(once=True)
        self._ids: Ids = mapped.content[: 4 * documents.num_ids].view(_IDS)
        self._marks: Offsets = mapped.content[self._begin :].view(_MARKS)

    def find(self, rows: Offsets) -> tuple[Offsets, Offsets, NDArray[np.bool_]]:
        """Return offset, length and presence of the documents of these rows."""
        places = self._begin + 8 * rows
        self._mark_blocks.check(places, places + 16)
        marks = self._marks[rows]
        return marks >> 1, (self._marks[rows + 1] >> 1) - (marks >> 1), (marks & 1).astype(np.bool_)

    def run(self, begin: int, end: int) -> Ids:
        """Return the ids from one place up to another."""
        found: Ids = self._id_blocks.read(4 * begin, 4 * end).view(_IDS)
        return found

    def copy(self, begins: Offsets, lengths: Offsets, target: Ids, places: Offsets) -> None:
        """Copy ids to places of an array."""
        self._id_blocks.check(4 * begins, 4 * (begins + lengths))
        copy_rows(self._ids, begins, lengths, target, places)
