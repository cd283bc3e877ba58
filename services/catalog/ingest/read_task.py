"""`ingest.read`: write the rows of one part as raw Arrow shards."""

import posixpath
from collections.abc import Callable, Iterator
from typing import Protocol

import pyarrow as pa

from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest import conversations, schemas, shards, source_errors
from services.catalog.ingest.sources import files, hub, text_documents, untyped, uploaded_files
from services.catalog.server.domain import not_found
from services.runtime.storage import Storage

ORIGIN = b"polytok.part"
"""Schema metadata key of a result, with the name of the part for messages."""
INFERRED = b"polytok.inferred"
"""Schema metadata key of a result whose types were inferred from values: they can be read again without types."""

Report = Callable[[int, int], None]


class Source(Protocol):
    """The source of a part's rows."""

    name: str

    @property
    def has_types(self) -> bool:
        """Whether types are not inferred from values."""

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
    origin = {
        **(schema.metadata or {}),
        ORIGIN: part.source.name.encode(),
        shards.SOURCES: part.origins.from_row(0),
    }
    if not part.source.has_types:
        origin[INFERRED] = b"true"
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
        self.columns = list(task.columns)
        self.source = _source(storage, task)
        # Without folders, so that a file makes the same shards anywhere.
        name = posixpath.basename(self.source.name)
        self.origins = shards.RowOrigins.of(shards.RowOrigin(name, task.part.upload.first_row))
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
        return shards.ShardWriter(self.storage, self._prefix, self._tag + suffix, self._shard_bytes, self.origins)


def _source(storage: Storage, task: tasks_pb2.ReadPartTask) -> Source:
    part = task.part
    match part.WhichOneof("part"):
        case "hub":
            return hub.HubShard(part.hub)
        case "documents":
            return text_documents.Documents(part.documents)
        case "upload":
            return uploaded_files.UploadRows(storage, part.upload)
        case _:
            return files.SourceFile(part.file, task.columns, task.untyped_columns)


def _write_part(part: _Part) -> tuple[list[tasks_pb2.RawShard], pa.Schema]:
    while True:
        try:
            return _try_write_part(part)
        except untyped.StartAgain:
            continue


def _try_write_part(part: _Part) -> tuple[list[tasks_pb2.RawShard], pa.Schema]:
    schema = pa.schema([])
    changed = False
    selection = _Selection(part)
    with part.writer() as writer:
        for whole in part.source.batches():
            batch = selection.of(whole)
            wider = schemas.merged(schema, schemas.stored(batch.schema))
            _check_columns(part.source.name, batch, wider)
            changed |= bool(writer.rows) and not wider.equals(schema, check_metadata=True)
            schema = wider
            stored = schemas.conformed(batch, schema)
            part.conversations.look(stored)
            writer.write(stored)
            part.report()
        selection.check()
    if not changed:
        return writer.shards, schema
    try:
        return _rewrite_with_schema(part, writer, schema), schema
    finally:
        writer.discard()


class _Selection:
    """The columns to read."""

    def __init__(self, part: _Part) -> None:
        self._part = part
        self._found: dict[str, None] = {}

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the columns to read, of those that a batch has."""
        self._found |= dict.fromkeys(batch.schema.names)
        if not self._part.columns:
            return batch
        chosen = [name for name in batch.schema.names if name in self._part.columns]
        if not chosen:
            # Later rows may have them; these rows count too.
            columns = self._part.columns
            return pa.RecordBatch.from_arrays([pa.nulls(batch.num_rows)] * len(columns), names=columns)
        return batch.select(chosen)

    def check(self) -> None:
        """Raise if no row has one of the columns to read."""
        for name in self._part.columns if self._found else ():
            if name not in self._found:
                raise not_found.source_column(self._part.source.name, name, list(self._found))


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
