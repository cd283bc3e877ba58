"""A file of rows that were uploaded to the catalog."""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest.sources import arrow
from services.runtime.storage import Storage


class Rows:
    """The rows of one file, in the catalog's own storage."""

    name = "the uploaded rows"
    """For messages."""

    def __init__(self, storage: Storage, part: tasks_pb2.UploadPart) -> None:
        self._storage = storage
        self._part = part
        self._done = 0

    def progress(self) -> tuple[int, int]:
        """Bytes read and bytes in all."""
        return self._done, self._part.size_bytes

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its rows. Raises DataLoss at their end if the bytes are not those that were uploaded."""
        with self._storage.open(self._part.key) as file:
            checked = _Checked(file)
            for batch in arrow.batches(checked, self.name):
                self._done = checked.position
                yield batch
        if (checked.position, checked.sha256) != (self._part.size_bytes, self._part.sha256):
            raise errors.DataLoss(
                f"{self._part.key} does not hold what was uploaded. Delete the dataset and upload its rows again.",
                metadata={"key": self._part.key},
            )


class _Checked:
    """A file that hashes what is read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0

    def read(self, size: int, /) -> bytes:
        """The next bytes, as many as asked for unless the file ends."""
        chunk = self._file.read(size)
        self._digest.update(chunk)
        self.position += len(chunk)
        return chunk

    @property
    def sha256(self) -> str:
        """Of what was read so far."""
        return self._digest.hexdigest()


def parts(source: datasets_pb2.UploadSource, folder: str) -> Iterator[tasks_pb2.UploadPart]:
    """The files of an upload, in the order of their rows."""
    first_row = 0
    for file in source.files:
        yield tasks_pb2.UploadPart(
            key=f"{folder}/{file.name}", size_bytes=file.size_bytes, sha256=file.sha256, first_row=first_row
        )
        first_row += file.num_rows
