"""A file of rows uploaded to the catalog."""

from collections.abc import Iterator

import pyarrow as pa

from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest.sources import arrow
from services.runtime.storage import Storage


class UploadRows:
    """The rows of one file in the catalog's storage."""

    has_types = True

    name = "the uploaded rows"
    """The name in messages."""

    def __init__(self, storage: Storage, part: tasks_pb2.UploadPart) -> None:
        self._storage = storage
        self._part = part
        self._done = 0

    def progress(self) -> tuple[int, int]:
        """Return bytes read and total bytes."""
        return self._done, self._part.size_bytes

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield its rows. Raise DataLoss at their end if the bytes are not those that were uploaded."""
        advice = "Delete the dataset and upload its rows again."
        with self._storage.verified(self._part.key, self._part.sha256, self._part.size_bytes, advice) as file:
            for batch in arrow.batches(file, self.name):
                self._done = file.position
                yield batch


def parts(source: datasets_pb2.UploadSource, folder: str) -> Iterator[tasks_pb2.UploadPart]:
    """Yield the files of an upload, in the order of their rows."""
    first_row = 0
    for file in source.files:
        yield tasks_pb2.UploadPart(
            key=f"{folder}/{file.name}", size_bytes=file.size_bytes, sha256=file.sha256, first_row=first_row
        )
        first_row += file.num_rows
