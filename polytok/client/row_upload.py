"""Build the messages of an upload from `datasets.Dataset`, Arrow tables, readers or record batches.

pyarrow is imported only for an upload.
"""

from __future__ import annotations  # pyarrow is an optional dependency

import asyncio
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from polytok import errors
from polytok.catalog.v1 import datasets_pb2 as pb
from polytok.client import message_builder

if TYPE_CHECKING:
    import pyarrow as pa

_MESSAGE_BYTES = 4 << 20
"""Approximate size of a message."""
_ROW_BYTES = 32 << 20
"""The largest row that the catalog's workers read."""
_READ_ROWS = 1000


class Upload:
    """The messages of an upload, in order; can be iterated once, with `for` or `async for`."""

    def __init__(self, begin: pb.UploadBegin, rows: object) -> None:
        self._begin = begin
        self._rows = rows
        self.failure: Exception | None = None
        """The error raised while the rows were read."""

    def identify(self) -> None:
        """Set a request id (AIP-155) if there is none."""
        self._begin.request_id = self._begin.request_id or str(uuid.uuid4())

    def __iter__(self) -> Iterator[pb.UploadDatasetRequest]:
        if not isinstance(self._rows, Iterable):
            raise errors.InvalidArgument("Asynchronous iterators of rows are for polytok.AsyncClient.")
        return self._recording_failure(self._messages(_batches(self._rows)))

    async def __aiter__(self) -> AsyncIterator[pb.UploadDatasetRequest]:
        if isinstance(self._rows, AsyncIterable):
            sent = _MessageBuilder(self._begin)
            try:
                async for batch in self._rows:
                    for message in sent.batch(batch):
                        yield message
                yield sent.end()
            except Exception as error:
                self.failure = error
                raise
            return
        # Reading rows may block, so it runs in a thread.
        messages = iter(self)
        while (following := await asyncio.to_thread(_next, messages)) is not None:
            yield following

    def _messages(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pb.UploadDatasetRequest]:
        sent = _MessageBuilder(self._begin)
        for batch in batches:
            yield from sent.batch(batch)
        yield sent.end()

    def _recording_failure(self, messages: Iterator[pb.UploadDatasetRequest]) -> Iterator[pb.UploadDatasetRequest]:
        try:
            yield from messages
        except Exception as error:
            # gRPC reports only a cancelled call.
            self.failure = error
            raise


def _next(messages: Iterator[pb.UploadDatasetRequest]) -> pb.UploadDatasetRequest | None:
    return next(messages, None)


class _MessageBuilder:
    """Builds messages from record batches, which must all have the schema of the first."""

    def __init__(self, begin: pb.UploadBegin) -> None:
        self._begin = begin
        self._schema: pa.Schema | None = None
        self._end = pb.UploadEnd()

    def batch(self, batch: pa.RecordBatch) -> Iterator[pb.UploadDatasetRequest]:
        """Yield the messages for a record batch."""
        plain = _plain(batch)
        if self._schema is None:
            self._schema = plain.schema
            self._begin.arrow_schema = plain.schema.serialize().to_pybytes()
            yield pb.UploadDatasetRequest(begin=self._begin)
        elif not plain.schema.equals(self._schema):
            raise errors.InvalidArgument(
                f"The record batch starting at row {self._end.num_rows} has a different schema: {plain.schema}. "
                "Use one schema for all rows."
            )
        for piece in _pieces(plain, self._end.num_rows):
            self._end.num_rows += piece.num_rows
            self._end.num_batches += 1
            yield pb.UploadDatasetRequest(batch=piece.serialize().to_pybytes())

    def end(self) -> pb.UploadDatasetRequest:
        """Return the last message."""
        if self._schema is None:
            raise errors.InvalidArgument("There are no rows to upload. Give at least one.", reason="SOURCE_EMPTY")
        return pb.UploadDatasetRequest(end=self._end)


def upload(dataset_id: str, rows: object, metadata: Mapping[str, str] | None, request_id: str) -> Upload:
    """Return the upload of these rows."""
    try:
        import pyarrow as pa  # noqa: PLC0415  optional, and imported here rather than in a thread of gRPC
    except ImportError as error:
        raise errors.FailedPrecondition(
            "Uploading rows needs the package `pyarrow`. Install it with `pip install 'polytok[data]'`."
        ) from error
    if isinstance(rows, pa.Table):
        rows = rows.to_batches() or [pa.RecordBatch.from_pylist([], rows.schema)]
    elif isinstance(rows, pa.RecordBatch):
        rows = [rows]
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable | AsyncIterable):
        raise errors.InvalidArgument(
            f"rows must be a datasets.Dataset, a pyarrow.Table or record batches, not a {type(rows).__name__}. Pass "
            "paths as files; convert a list of dicts with pyarrow.Table.from_pylist."
        )
    begin = message_builder.build(pb.UploadBegin, dataset_id=dataset_id, metadata=metadata or {}, request_id=request_id)
    return Upload(begin, rows)


def _batches(rows: Any) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of any kind of rows."""
    import pyarrow as pa  # noqa: PLC0415

    if hasattr(rows, "with_format") and hasattr(rows, "features"):
        # A datasets.Dataset or IterableDataset: keep its order and selection, which its file does not have.
        schema = rows.features.arrow_schema if rows.features is not None else None
        for table in rows.with_format("arrow").iter(batch_size=_READ_ROWS):
            yield from (table if schema is None else table.cast(schema)).to_batches()
    else:
        for place, batch in enumerate(rows):
            if not isinstance(batch, pa.RecordBatch):
                raise errors.InvalidArgument(
                    f"Item {place} of the rows is a {type(batch).__name__}, not a pyarrow.RecordBatch. Convert it, for "
                    "example with pyarrow.RecordBatch.from_pylist."
                )
            yield batch


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows with dictionary columns decoded, because dictionaries would need messages of their own."""
    import pyarrow as pa  # noqa: PLC0415

    if not any("dictionary<" in str(field.type) for field in batch.schema):
        return batch
    fields = [field.with_type(_decoded(field.type)) for field in batch.schema]
    columns = [column.cast(field.type) for column, field in zip(batch.columns, fields, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, metadata=batch.schema.metadata))


def _decoded(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa  # noqa: PLC0415

    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_decoded(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_decoded(field.type)) for field in kind])
    return kind


def _pieces(batch: pa.RecordBatch, first_row: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows in pieces that are small enough to send."""
    import pyarrow as pa  # noqa: PLC0415

    if not batch.num_rows:
        return
    size = pa.ipc.get_record_batch_size(batch)
    if size <= _MESSAGE_BYTES or batch.num_rows == 1:
        if size > _ROW_BYTES:
            raise errors.InvalidArgument(
                f"Row {first_row} takes {size >> 20} MiB; the limit is {_ROW_BYTES >> 20} MiB. Split it."
            )
        yield batch
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half), first_row)
    yield from _pieces(batch.slice(half), first_row + half)
