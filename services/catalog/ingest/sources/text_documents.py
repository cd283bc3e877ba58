"""Text files that are one row each, many of them read as one part."""

from collections.abc import Iterator

import pyarrow as pa

from polytok.catalog.v1 import tasks_pb2
from polytok.catalog.v1.datasets_pb2 import FileSource
from services.catalog.ingest import limits, source_errors
from services.catalog.ingest.sources import files


class Documents:
    """The files of one part, read one after another."""

    has_types = True

    def __init__(self, part: tasks_pb2.DocumentsPart) -> None:
        first = source_errors.redact_uri(part.documents[0].uri)
        others = len(part.documents) - 1
        self.name = f"{first} and {others} files after it" if others else first
        """The name in messages."""
        self._documents = part.documents
        self._done = 0

    def progress(self) -> tuple[int, int]:
        """Return files read and total files."""
        return self._done, len(self._documents)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield its rows."""
        self._done = 0
        for document in self._documents:
            part = tasks_pb2.FilePart(
                uri=document.uri,
                format=FileSource.FORMAT_TEXT,
                size_bytes=document.size_bytes,
                text_rows=FileSource.TEXT_ROWS_FILE,
            )
            yield from files.SourceFile(part).batches()
            self._done += 1


def parts(found: list[tasks_pb2.FilePart]) -> Iterator[tasks_pb2.DocumentsPart]:
    """Group files in order into parts that are worth a task."""
    part = tasks_pb2.DocumentsPart()
    size = 0
    for file in found:
        if len(part.documents) >= limits.PART_FILES or (part.documents and size + file.size_bytes > limits.PART_BYTES):
            yield part
            part, size = tasks_pb2.DocumentsPart(), 0
        part.documents.add(uri=file.uri, size_bytes=file.size_bytes)
        size += file.size_bytes
    yield part
