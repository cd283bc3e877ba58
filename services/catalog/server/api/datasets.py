"""DatasetService (polytok/catalog/v1/datasets.proto)."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from google.protobuf import empty_pb2, json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.catalog.v1 import datasets_pb2, datasets_pb2_grpc
from services.catalog.server import checks, messages
from services.catalog.server.domain import names, records, sources, states
from services.catalog.server.jobs import datasets as handler
from services.catalog.server.repository.datasets import datasets
from services.catalog.server.repository.tokenizations import tokenizations
from services.catalog.server.service import removal, source_paths
from services.catalog.server.service.uploads import UploadHandler
from services.jobs import failures
from services.records import etags
from services.records.api import Context, Dependencies, RecordApi
from services.records.queries import Lock
from services.records.unit_of_work import UnitOfWork


class DatasetServicer(RecordApi[records.Dataset, str, datasets_pb2.Dataset], datasets_pb2_grpc.DatasetServiceServicer):
    """Serves datasets."""

    message_type = datasets_pb2.Dataset

    def __init__(self, shared: Dependencies, upload_bytes: int, *, check_paths: bool) -> None:
        super().__init__(shared, datasets, states.DATASET)
        self._check_paths = check_paths
        self._uploading = UploadHandler(shared, upload_bytes, self._begin, self._message)

    def _message(self, record: records.Dataset) -> datasets_pb2.Dataset:
        return messages.dataset(record, self._shared.storage)

    async def CreateDataset(  # noqa: N802
        self, request: datasets_pb2.CreateDatasetRequest, context: Context
    ) -> datasets_pb2.Dataset:
        """Register a dataset."""
        sources.check_dataset(request.dataset.source)
        sources.check_metadata("dataset.metadata", request.dataset.metadata)
        if self._check_paths and not await self._exists(request.dataset_id):
            await asyncio.to_thread(source_paths.check, sources.paths_of_dataset(request.dataset.source))

        async def act(unit: UnitOfWork) -> records.Dataset:
            return await self._create(unit.conn, request)

        return await self._change("CreateDataset", request, act)

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
        job_id = await self._shared.store.create(conn, handler.KIND, dataset.resource, handler.first_tasks(dataset))
        return await datasets.update(
            conn,
            dataset.id,
            job_id=job_id,
            status=states.DATASET.first,
            progress=0.0,
            **failures.NO_ERROR,
            completed_at=None,
        )

    async def UploadDataset(  # noqa: N802
        self, request_iterator: AsyncIterator[datasets_pb2.UploadDatasetRequest], context: Context
    ) -> datasets_pb2.Dataset:
        """Register a dataset of rows that are sent."""
        return await self._uploading.take(request_iterator)

    async def GetDataset(self, request: datasets_pb2.GetDatasetRequest, context: Context) -> datasets_pb2.Dataset:  # noqa: N802
        """Read a dataset."""
        return self._message(await self._get(names.parse_dataset(request.name)))

    async def ListDatasets(  # noqa: N802
        self, request: datasets_pb2.ListDatasetsRequest, context: Context
    ) -> datasets_pb2.ListDatasetsResponse:
        """Read a page of datasets."""
        page, token = await self._list(request)
        return datasets_pb2.ListDatasetsResponse(
            datasets=[self._message(record) for record in page], next_page_token=token
        )

    async def UpdateDataset(  # noqa: N802
        self, request: datasets_pb2.UpdateDatasetRequest, context: Context
    ) -> datasets_pb2.Dataset:
        """Change a dataset's metadata."""
        checks.check_mask(request.update_mask)
        sources.check_metadata("dataset.metadata", request.dataset.metadata)
        identifier = names.parse_dataset(request.dataset.name)

        async def act(unit: UnitOfWork) -> records.Dataset:
            record = await datasets.get(unit.conn, identifier, Lock.CHANGE)
            etags.check(record, request.dataset.etag)
            return await datasets.update(unit.conn, record.id, metadata=dict(request.dataset.metadata))

        return await self._change("UpdateDataset", request, act)

    async def DeleteDataset(self, request: datasets_pb2.DeleteDatasetRequest, context: Context) -> empty_pb2.Empty:  # noqa: N802
        """Delete a dataset with its files, and its tokenizations if forced."""

        async def act(unit: UnitOfWork, record: records.Dataset) -> None:
            dependents = await tokenizations.depending(unit.conn, dataset_id=record.id)
            if dependents and not request.force:
                raise checks.depended_on(record.resource, [dependent.resource for dependent in dependents])
            await removal.tokenizations(unit, self._shared.store, self._shared.folders, dependents)
            # A dataset that came from an earlier version may lie elsewhere.
            await self._delete_rows(unit, record, record.raw_path, names.dataset_key(record.id))

        return await self._delete("DeleteDataset", request, names.parse_dataset(request.name), act)

    async def CancelDataset(  # noqa: N802
        self, request: datasets_pb2.CancelDatasetRequest, context: Context
    ) -> datasets_pb2.Dataset:
        """Stop reading a dataset in."""

        async def act(unit: UnitOfWork) -> records.Dataset:
            record = await self._stop(unit.conn, names.parse_dataset(request.name))
            if record.status != "CANCELLED":
                states.DATASET.require_cancellable(record.resource, record.status)
            self._delete_folders(unit, record.raw_path)
            return record

        return await self._change("CancelDataset", request, act)

    async def RetryDataset(self, request: datasets_pb2.RetryDatasetRequest, context: Context) -> datasets_pb2.Dataset:  # noqa: N802
        """Read a dataset in again."""
        identifier = names.parse_dataset(request.name)

        async def act(unit: UnitOfWork) -> records.Dataset:
            record = await datasets.get(unit.conn, identifier, Lock.CHANGE)
            states.DATASET.require_retryable(record.resource, record.status)
            await self._shared.folders.reserve(unit.conn, record.raw_path)
            return await self._begin(unit.conn, record)

        return await self._change("RetryDataset", request, act)

    async def WatchDataset(  # noqa: N802
        self, request: datasets_pb2.WatchDatasetRequest, context: Context
    ) -> AsyncGenerator[datasets_pb2.WatchDatasetResponse]:
        """Stream a dataset until it is at rest."""
        async for record, percent in self._watch(names.parse_dataset(request.name)):
            message = self._message(record)
            message.progress = percent
            yield datasets_pb2.WatchDatasetResponse(dataset=message)
