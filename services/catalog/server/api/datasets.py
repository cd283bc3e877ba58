"""DatasetService (polytok/catalog/v1/datasets.proto)."""

import functools
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from google.protobuf import empty_pb2, json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.catalog.v1 import datasets_pb2, datasets_pb2_grpc
from services.catalog.server import dependencies, events, messages
from services.catalog.server.dependencies import Context, Dependencies
from services.catalog.server.domain import names, not_found, records, sources, states
from services.catalog.server.jobs import datasets as handler
from services.catalog.server.repository import datasets, tokenizations
from services.catalog.server.service import removal
from services.catalog.server.service.uploads import UploadHandler
from services.jobs import failures
from services.records import cancellation, etags, pagination
from services.records.queries import Lock
from services.records.unit_of_work import UnitOfWork


class DatasetServicer(datasets_pb2_grpc.DatasetServiceServicer):
    """Serves datasets."""

    def __init__(self, shared: Dependencies, upload_bytes: int) -> None:
        self._database = shared.database
        self._storage = shared.storage
        self._store = shared.store
        self._folders = shared.folders
        self._watch = shared.watch
        self._transactions = shared.transactions
        self._uploading = UploadHandler(shared, upload_bytes, self._begin, self._message)

    def _message(self, record: records.Dataset) -> datasets_pb2.Dataset:
        return messages.dataset(record, self._storage)

    async def CreateDataset(  # noqa: N802
        self, request: datasets_pb2.CreateDatasetRequest, context: Context
    ) -> datasets_pb2.Dataset:
        """Register a dataset."""
        sources.check_dataset(request.dataset.source)
        sources.check_metadata("dataset.metadata", request.dataset.metadata)

        async def act(unit: UnitOfWork) -> datasets_pb2.Dataset:
            return self._message(await self._create(unit.conn, request))

        return await self._transactions.run("CreateDataset", request, datasets_pb2.Dataset, act)

    async def _create(self, conn: AsyncConnection, request: datasets_pb2.CreateDatasetRequest) -> records.Dataset:
        dataset_id = uuid.uuid4()
        source = json_format.MessageToDict(request.dataset.source, preserving_proto_field_name=True)
        made = await datasets.insert(
            conn,
            id=dataset_id,
            name=request.dataset_id,
            source=source,
            raw_path=names.raw_key(dataset_id),
            metadata=dict(request.dataset.metadata),
        )
        if made is not None:
            return await self._begin(conn, made)
        existing = await datasets.get(conn, request.dataset_id)
        differing = sources.differences(sources.as_fields(existing.source), sources.as_fields(source))
        if differing:
            raise sources.exists(existing.resource, differing)
        return existing

    async def _begin(self, conn: AsyncConnection, dataset: records.Dataset) -> records.Dataset:
        job_id = await self._store.create(conn, handler.KIND, dataset.resource, handler.first_tasks(dataset))
        started = await datasets.update(
            conn,
            dataset.id,
            job_id=job_id,
            status=states.DATASET.first,
            progress=0.0,
            **failures.NO_ERROR,
            completed_at=None,
        )
        await events.notify_changed(conn, dataset.id)
        return started

    async def UploadDataset(  # noqa: N802
        self, request_iterator: AsyncIterator[datasets_pb2.UploadDatasetRequest], context: Context
    ) -> datasets_pb2.Dataset:
        """Register a dataset of rows that are sent."""
        return await self._uploading.take(request_iterator)

    async def GetDataset(self, request: datasets_pb2.GetDatasetRequest, context: Context) -> datasets_pb2.Dataset:  # noqa: N802
        """Read a dataset."""
        async with self._database.connection() as conn:
            return self._message(await datasets.get(conn, names.parse_dataset(request.name)))

    async def ListDatasets(  # noqa: N802
        self, request: datasets_pb2.ListDatasetsRequest, context: Context
    ) -> datasets_pb2.ListDatasetsResponse:
        """Read a page of datasets."""
        statuses = [datasets_pb2.Dataset.State.Name(state).removeprefix("STATE_") for state in request.states]
        after = pagination.after(request, pagination.read_uuid)
        async with self._database.connection() as conn:
            found = await datasets.page(conn, statuses, after, pagination.size(request) + 1)
        page, token = pagination.cut(request, found)
        return datasets_pb2.ListDatasetsResponse(
            datasets=[self._message(record) for record in page], next_page_token=token
        )

    async def UpdateDataset(  # noqa: N802
        self, request: datasets_pb2.UpdateDatasetRequest, context: Context
    ) -> datasets_pb2.Dataset:
        """Change a dataset's metadata."""
        dependencies.check_mask(request.update_mask)
        sources.check_metadata("dataset.metadata", request.dataset.metadata)
        identifier = names.parse_dataset(request.dataset.name)

        async def act(unit: UnitOfWork) -> datasets_pb2.Dataset:
            record = await datasets.get(unit.conn, identifier, Lock.CHANGE)
            etags.check(record, request.dataset.etag)
            record = await datasets.update(unit.conn, record.id, metadata=dict(request.dataset.metadata))
            await events.notify_changed(unit.conn, record.id)
            return self._message(record)

        return await self._transactions.run("UpdateDataset", request, datasets_pb2.Dataset, act)

    async def DeleteDataset(self, request: datasets_pb2.DeleteDatasetRequest, context: Context) -> empty_pb2.Empty:  # noqa: N802
        """Delete a dataset with its files, and its tokenizations if forced."""

        async def act(unit: UnitOfWork) -> empty_pb2.Empty:
            await self._delete(unit, request)
            return empty_pb2.Empty()

        return await self._transactions.run("DeleteDataset", request, empty_pb2.Empty, act)

    async def _delete(self, unit: UnitOfWork, request: datasets_pb2.DeleteDatasetRequest) -> None:
        record = await self._stopped(unit.conn, request.name)
        etags.check(record, request.etag)
        dependents = await tokenizations.depending(unit.conn, dataset_id=record.id)
        if dependents and not request.force:
            raise dependencies.depended_on(record.resource, [dependent.resource for dependent in dependents])
        await removal.tokenizations(unit, self._store, self._folders, dependents)
        await cancellation.delete_jobs(unit.conn, self._store, record.resource)
        await datasets.delete(unit.conn, record.id)
        await events.notify_changed(unit.conn, record.id)
        # A dataset that came from an earlier version may lie elsewhere.
        for key in (record.raw_path, names.dataset_key(record.id)):
            unit.after_commit.append(functools.partial(self._folders.delete_if_unused, key))

    async def _stopped(self, conn: AsyncConnection, name: str) -> records.Dataset:
        identifier = names.parse_dataset(name)
        record = await cancellation.cancel_job_and_lock(
            conn, self._store, functools.partial(datasets.find, conn, identifier)
        )
        if record is None:
            raise not_found.dataset(identifier, await datasets.known(conn))
        return record

    async def CancelDataset(  # noqa: N802
        self, request: datasets_pb2.CancelDatasetRequest, context: Context
    ) -> datasets_pb2.Dataset:
        """Stop reading a dataset in."""

        async def act(unit: UnitOfWork) -> datasets_pb2.Dataset:
            record = await self._stopped(unit.conn, request.name)
            if record.status != "CANCELLED":
                states.DATASET.require_cancellable(record.resource, record.status)
            unit.after_commit.append(functools.partial(self._folders.delete_if_unused, record.raw_path))
            return self._message(record)

        return await self._transactions.run("CancelDataset", request, datasets_pb2.Dataset, act)

    async def RetryDataset(self, request: datasets_pb2.RetryDatasetRequest, context: Context) -> datasets_pb2.Dataset:  # noqa: N802
        """Read a dataset in again."""
        identifier = names.parse_dataset(request.name)

        async def act(unit: UnitOfWork) -> datasets_pb2.Dataset:
            record = await datasets.get(unit.conn, identifier, Lock.CHANGE)
            states.DATASET.require_retryable(record.resource, record.status)
            await self._folders.reserve(unit.conn, record.raw_path)
            return self._message(await self._begin(unit.conn, record))

        return await self._transactions.run("RetryDataset", request, datasets_pb2.Dataset, act)

    async def WatchDataset(  # noqa: N802
        self, request: datasets_pb2.WatchDatasetRequest, context: Context
    ) -> AsyncGenerator[datasets_pb2.WatchDatasetResponse]:
        """Stream a dataset until it is at rest."""
        async with self._database.connection() as conn:
            first = await datasets.get(conn, names.parse_dataset(request.name))

        async def read(conn: AsyncConnection) -> records.Dataset | None:
            return await datasets.find(conn, str(first.id))

        async for record, percent in self._watch.follow(first.id, states.DATASET, read):
            message = self._message(record)
            message.progress = percent
            yield datasets_pb2.WatchDatasetResponse(dataset=message)
