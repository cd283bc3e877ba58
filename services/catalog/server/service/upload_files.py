"""Rows that a caller sends: written to files as they come, message by message, and forgotten unless all of them do.

What is checked here is the framing; no byte of the rows is understood before a worker's child process, whose memory has
a limit, reads the files in as it reads any others.
"""

import contextlib
import hashlib
import io
import struct
import threading
import time
from contextlib import AbstractContextManager

from polytok import errors
from polytok.catalog.v1 import datasets_pb2
from services.catalog.ingest.sources import arrow_messages
from services.runtime.storage import StagedFile, Storage

_FILE_BYTES = 64 << 20
"""A file ends after so many: each is one part for the workers."""
_FILE_SECONDS = 60.0
"""A file ends after so long, however slowly rows come: garbage collection spares what grew since it last looked."""
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What ends a stream of Arrow."""


class UploadWriter:
    """Takes the messages of one upload; every method blocks. Without a storage it only finds out what they are.

    A call that is cancelled leaves the thread behind that writes for it; the lock has it end before the files go.
    """

    def __init__(self, storage: Storage | None, folder: str, schema: bytes, limit_bytes: int) -> None:
        self._storage = storage
        self._folder = folder
        self._schema = schema
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._is_over = False
        self._digest = hashlib.sha256()
        self._source = datasets_pb2.UploadSource()
        self._batches = 0
        self._file: tuple[AbstractContextManager[StagedFile], StagedFile] | None = None
        self._file_rows = 0
        self._file_began = 0.0
        _check_schema(schema)
        self._count(schema)

    def add(self, batch: bytes) -> None:
        """Take a record batch."""
        with self._lock:
            if not self._is_over:
                self._add(batch)

    def _add(self, batch: bytes) -> None:
        rows = _rows(batch, self._batches)
        self._count(batch)
        self._batches += 1
        self._source.num_rows += rows
        if self._storage is None:
            return
        if self._file is None:
            self._begin_file(self._storage)
        assert self._file is not None  # begun just now
        self._file[1].write(batch)
        self._file_rows += rows
        if self._file[1].size >= _FILE_BYTES or time.monotonic() - self._file_began >= _FILE_SECONDS:
            self._end_file()

    def finish(self, end: datasets_pb2.UploadEnd) -> datasets_pb2.UploadSource:
        """End the last file; return what was uploaded. Raises InvalidArgument if it is not what was sent."""
        if (end.num_rows, end.num_batches) != (self._source.num_rows, self._batches):
            raise _invalid(
                "end",
                f"{end.num_rows} rows in {end.num_batches} record batches were sent, and {self._source.num_rows} in "
                f"{self._batches} came; send them again.",
            )
        if not self._source.num_rows:
            raise errors.InvalidArgument("The upload has no rows. Send at least one.", reason="SOURCE_EMPTY")
        self._end_file()
        self._source.sha256 = self._digest.hexdigest()
        return self._source

    def abandon(self) -> None:
        """Leave no file."""
        with self._lock:
            self._is_over = True
            if self._file is not None:
                (creating, _), self._file = self._file, None
                failure = errors.Cancelled("The upload broke off.")
                with contextlib.suppress(errors.Cancelled):
                    creating.__exit__(type(failure), failure, None)
            if self._storage is not None:
                self._storage.delete_tree(self._folder)

    def _count(self, message: bytes) -> None:
        self._source.size_bytes += len(message)
        if self._source.size_bytes > self._limit:
            raise errors.ResourceExhausted(
                f"The rows take more than {_size(self._limit)}, the most that may be uploaded. Write them to files "
                "that the workers can open and give those, or set POLYTOK_CATALOG_UPLOAD_BYTES higher for the catalog.",
                reason="STORAGE_FAILED",
                retryable=False,
            )
        self._digest.update(message)

    def _begin_file(self, storage: Storage) -> None:
        key = f"{self._folder}/{len(self._source.files):05d}.arrow"
        creating = storage.create(key)
        self._file = (creating, creating.__enter__())
        self._file_rows, self._file_began = 0, time.monotonic()
        self._file[1].write(self._schema)

    def _end_file(self) -> None:
        if self._file is None:
            return
        (creating, staged), self._file = self._file, None
        staged.write(_END)
        creating.__exit__(None, None, None)
        self._source.files.add(
            name=f"{len(self._source.files):05d}.arrow",
            num_rows=self._file_rows,
            size_bytes=staged.size,
            sha256=staged.sha256,
        )


def _size(count: int) -> str:
    return f"{count >> 20:,} MiB" if count >= 1 << 20 else f"{count:,} bytes"


def _check_schema(schema: bytes) -> None:
    """Refuse what is no schema, and columns that cannot be stored."""
    # Importing Arrow takes a while, and few catalogs take uploads in.
    import pyarrow as pa  # noqa: PLC0415

    _framed(schema, "begin.arrow_schema")
    try:
        found = pa.ipc.read_schema(pa.py_buffer(schema))
    except (pa.ArrowException, OSError) as error:
        raise _invalid("begin.arrow_schema", f"is no Arrow schema ({error}).") from error
    if not found.names:
        raise _invalid("begin.arrow_schema", "has no columns; rows need at least one.")
    twice = sorted({name for name in found.names if found.names.count(name) > 1})
    if twice:
        raise _invalid("begin.arrow_schema", f"has two columns named {twice[0]!r}; rename one of them.")
    for field in found:
        if "dictionary<" in str(field.type):
            raise _invalid(
                "begin.arrow_schema",
                f"column {field.name!r} is dictionary-encoded, whose values come in messages of their own; decode it.",
            )


def _rows(batch: bytes, place: int) -> int:
    """Return how many rows a record batch has, by its own account."""
    field = f"batch {place}"
    message = _framed(batch, field)
    try:
        rows = arrow_messages.batch_rows(message.metadata)
    except struct.error as error:
        raise _invalid(field, f"is no record batch of Arrow that could be read ({error}).") from error
    return rows


def _framed(data: bytes, field: str) -> arrow_messages.Message:
    """Return the one message of Arrow that the data are."""
    try:
        message = arrow_messages.read(io.BytesIO(data).read)
    except struct.error as error:
        raise _invalid(field, f"is no message of Arrow IPC ({error}).") from error
    if message is None or not message.metadata or len(message.head) + message.body_bytes != len(data):
        raise _invalid(field, "is not one whole message of Arrow IPC.")
    return message


def _invalid(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"{field}: {description}",
        reason="SOURCE_INVALID",
        violations=[errors.FieldViolation(field, description)],
    )
