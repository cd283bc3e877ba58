"""DatasetService.UploadDataset (polytok/catalog/v1/datasets.proto)."""

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf import json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.catalog.v1 import datasets_pb2
from services.catalog.server.domain import names, records, sources
from services.catalog.server.repository.datasets import datasets
from services.catalog.server.service import upload_files
from services.records.api import Dependencies
from services.records.unit_of_work import UnitOfWork

_Request = datasets_pb2.UploadDatasetRequest
_AT_ONCE = 16
"""Each holds a message of some megabytes at a time."""

Begin = Callable[[AsyncConnection, records.Dataset], Awaitable[records.Dataset]]
"""Starts to read in a dataset that was just created."""


class UploadHandler:
    """Takes rows in and registers them. There is no dataset before all of them are on disk."""

    def __init__(
        self,
        shared: Dependencies,
        limit_bytes: int,
        begin: Begin,
        message: Callable[[records.Dataset], datasets_pb2.Dataset],
    ) -> None:
        self._database = shared.database
        self._storage = shared.storage
        self._transactions = shared.transactions
        self._limit_bytes = limit_bytes
        self._begin = begin
        self._message = message
        self._running = 0

    async def take(self, requests: AsyncIterator[_Request]) -> datasets_pb2.Dataset:
        """Answer one call."""
        if self._running >= _AT_ONCE:
            raise errors.Unavailable(f"{_AT_ONCE} uploads are running, the most at once; try again in a moment.")
        self._running += 1
        try:
            begin = await _begin_of(requests)
            sources.check_metadata("begin.metadata", begin.metadata)
            answer = await self._transactions.find_response("UploadDataset", begin, datasets_pb2.Dataset)
            return answer or await self._take(begin, requests)
        finally:
            self._running -= 1

    async def _take(self, begin: datasets_pb2.UploadBegin, requests: AsyncIterator[_Request]) -> datasets_pb2.Dataset:
        async with self._database.connection() as conn:
            existing = await datasets.find(conn, begin.dataset_id)
        if existing is not None and "upload" not in existing.source:
            raise sources.exists(
                existing.resource, sources.differences(sources.as_fields(existing.source), {"source": "upload"})
            )
        dataset_id = uuid.uuid4()
        # Where there is such a dataset, it is only found out whether these are its rows.
        storage = self._storage if existing is None else None
        upload = await asyncio.to_thread(
            upload_files.UploadWriter, storage, names.upload_key(dataset_id), begin.arrow_schema, self._limit_bytes
        )
        made = False
        try:
            source = await _received(upload, requests)

            async def act(unit: UnitOfWork) -> datasets_pb2.Dataset:
                nonlocal made
                record, made = await self._register(unit.conn, dataset_id, begin, source)
                return self._message(record)

            return await self._transactions.run("UploadDataset", begin, datasets_pb2.Dataset, act)
        finally:
            if not made:
                await asyncio.to_thread(upload.abandon)

    async def _register(
        self,
        conn: AsyncConnection,
        dataset_id: uuid.UUID,
        begin: datasets_pb2.UploadBegin,
        source: datasets_pb2.UploadSource,
    ) -> tuple[records.Dataset, bool]:
        """Return the dataset, and whether these rows made it."""
        document = json_format.MessageToDict(
            datasets_pb2.DatasetSource(upload=source), preserving_proto_field_name=True
        )
        made = None
        if source.files:
            made = await datasets.insert(
                conn,
                id=dataset_id,
                name=begin.dataset_id,
                source=document,
                raw_path=names.raw_key(dataset_id),
                metadata=dict(begin.metadata),
            )
        if made is not None:
            return await self._begin(conn, made), True
        existing = await datasets.get(conn, begin.dataset_id)
        differing = sources.differences(sources.as_fields(existing.source), sources.as_fields(document))
        if differing:
            raise sources.exists(existing.resource, differing)
        return existing, False


async def _begin_of(requests: AsyncIterator[_Request]) -> datasets_pb2.UploadBegin:
    first = await anext(aiter(requests), None)
    if first is None or not first.HasField("begin"):
        raise _wrong("begin", "must be the first message of an upload.")
    return first.begin


async def _received(upload: upload_files.UploadWriter, requests: AsyncIterator[_Request]) -> datasets_pb2.UploadSource:
    end: datasets_pb2.UploadEnd | None = None
    async for request in requests:
        if end is not None:
            raise _wrong("end", "must be the last message of an upload.")
        match request.WhichOneof("message"):
            case "batch":
                await asyncio.to_thread(upload.add, request.batch)
            case "end":
                end = request.end
            case _:
                raise _wrong("begin", "may only be the first message of an upload.")
    if end is None:
        raise _wrong(
            "end", "must be the last message of an upload, and never came: rows may be missing. Send it again."
        )
    return await asyncio.to_thread(functools.partial(upload.finish, end))


def _wrong(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"{field}: {description}", violations=[errors.FieldViolation(field, description)])
