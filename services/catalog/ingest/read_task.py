"""`ingest.read`: write the rows of one part as raw Arrow shards."""

import posixpath
from collections.abc import Callable, Iterator
from typing import Protocol

import pyarrow as pa

from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest import conversations, schemas, shards, source_errors
from services.catalog.ingest.sources import delimited, files, hub, text_documents, uploaded_files
from services.runtime.storage import Storage

ORIGIN = b"polytok.source"
"""Schema metadata key of a result, with the name of the part for messages."""

Report = Callable[[int, int], None]


class Source(Protocol):
    """The source of a part's rows."""

    name: str

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield its rows."""

    def progress(self) -> tuple[int, int]:
        """Return how much has been read, and the total."""


def read(storage: Storage, task: tasks_pb2.ReadPartTask, tag: str, report: Report) -> tasks_pb2.ReadPartResult:
    """Write the shards of one part; after an error none are left."""
    part = _Part(storage, task, tag, report)
    try:
        written, schema = _write_part(part)
    except schemas.Differs as differs:
        raise source_errors.invalid(
            f"{part.source.name}: column {differs.column!r} contains both {differs.first} and {differs.second}."
            " Give all values of the column the same type."
        ) from differs
    except schemas.Unfit as unfit:
        raise source_errors.invalid(
            f"{part.source.name}: column {unfit.column!r} cannot be stored without loss ({unfit})."
            " Give all values of the column the same type."
        ) from unfit
    columns = [part.column(field) for field in schema]
    origin = {**(schema.metadata or {}), ORIGIN: part.source.name.encode()}
    return tasks_pb2.ReadPartResult(
        shards=written, columns=columns, arrow_schema=schema.with_metadata(origin).serialize().to_pybytes()
    )


class _Part:
    """One part and its shards."""

    def __init__(self, storage: Storage, task: tasks_pb2.ReadPartTask, tag: str, report: Report) -> None:
        self.storage = storage
        self._report = report
        self._reported = 0
        self._prefix = f"{task.raw_key}/part-{task.ordinal:05d}"
        self._tag = tag
        self._shard_bytes = task.shard_bytes
        self.source = _source(storage, task.part)
        self._origin = origin(self.source.name)._replace(first_row=task.part.upload.first_row)
        self.conversations = conversations.Finder()

    def column(self, field: pa.Field) -> datasets_pb2.Column:
        """Return a column as the dataset's record stores it."""
        is_chat = field.name in self.conversations.found
        content = datasets_pb2.Column.CONTENT_CONVERSATIONS if is_chat else datasets_pb2.Column.CONTENT_UNSPECIFIED
        return datasets_pb2.Column(name=field.name, type=str(field.type), content=content)

    def report(self) -> None:
        """Return the progress of reading, not counting what is read a second time."""
        done, total = self.source.progress()
        self._reported = max(self._reported, done)
        self._report(self._reported, total)

    def writer(self, suffix: str = "") -> shards.ShardWriter:
        """Write shards under this part's names."""
        return shards.ShardWriter(self.storage, self._prefix, self._tag + suffix, self._shard_bytes, self._origin)


def origin(name: str) -> shards.RowOrigin:
    """Return a source as its shards name it: without folders, so that a file makes the same shards anywhere."""
    return shards.RowOrigin(posixpath.basename(name))


def _source(storage: Storage, part: tasks_pb2.IngestPart) -> Source:
    match part.WhichOneof("part"):
        case "hub":
            return hub.HubShard(part.hub)
        case "documents":
            return text_documents.Documents(part.documents)
        case "upload":
            return uploaded_files.UploadRows(storage, part.upload)
        case _:
            return files.SourceFile(part.file)


def _write_part(part: _Part) -> tuple[list[tasks_pb2.RawShard], pa.Schema]:
    while True:
        try:
            return _try_write_part(part)
        except delimited.StartAgain:
            continue


def _try_write_part(part: _Part) -> tuple[list[tasks_pb2.RawShard], pa.Schema]:
    schema = pa.schema([])
    changed = False
    with part.writer() as writer:
        for batch in part.source.batches():
            wider = schemas.merged(schema, schemas.stored(batch.schema))
            _check_columns(part.source.name, batch, wider)
            changed |= bool(writer.rows) and not wider.equals(schema, check_metadata=True)
            schema = wider
            stored = schemas.conformed(batch, schema)
            part.conversations.look(stored)
            writer.write(stored)
            part.report()
    if not changed:
        return writer.shards, schema
    try:
        return _rewrite_with_schema(part, writer, schema), schema
    finally:
        writer.discard()


def _rewrite_with_schema(part: _Part, narrow: shards.ShardWriter, schema: pa.Schema) -> list[tasks_pb2.RawShard]:
    """Write the rows again, all with the columns known at the end."""
    with part.writer("w") as writer:
        for shard in narrow.shards:
            with shards.opened(part.storage, shard) as batches:
                for batch in batches:
                    writer.write(schemas.conformed(batch, schema))
    return writer.shards


def _check_columns(name: str, batch: pa.RecordBatch, schema: pa.Schema) -> None:
    if batch.num_rows and not schema.names:
        raise source_errors.invalid(f"{name} has rows without any column. Give each row at least one column.")
    twice = sorted({column for column in batch.schema.names if batch.schema.names.count(column) > 1})
    if twice:
        raise source_errors.invalid(f"{name} has two columns named {twice[0]!r}. Rename one of them.")
    for field in batch.schema:
        _check_storable(name, field, schema.field(field.name).type)


def _check_storable(name: str, field: pa.Field, kind: pa.DataType) -> None:
    if not schemas.known_to_datasets(kind):
        raise source_errors.invalid(
            f"{name}: `datasets` cannot load column {field.name!r} of type {field.type}. Omit the column or convert it."
        )
