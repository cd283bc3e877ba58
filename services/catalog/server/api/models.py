"""ModelService (polytok/catalog/v1/models.proto)."""

import asyncio
from collections.abc import AsyncGenerator

from google.protobuf import empty_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.catalog.v1 import models_pb2, models_pb2_grpc
from services.catalog.server import checks, messages
from services.catalog.server.domain import names, records, sources, states
from services.catalog.server.jobs import models as handler
from services.catalog.server.repository.models import models
from services.catalog.server.repository.tokenizations import tokenizations
from services.catalog.server.service import removal, source_paths
from services.jobs import failures
from services.records import etags
from services.records.api import Context, Dependencies, RecordApi
from services.records.queries import Lock
from services.records.unit_of_work import UnitOfWork

_UID_TRIES = 5
_SOURCE_FIELDS = ("repo_id", "revision", "tokenizer_repo_id")


class ModelServicer(RecordApi[records.Model, str, models_pb2.Model], models_pb2_grpc.ModelServiceServicer):
    """Serves models."""

    message_type = models_pb2.Model
    read_id = str

    def __init__(self, shared: Dependencies, *, check_paths: bool) -> None:
        super().__init__(shared, models, states.MODEL)
        self._check_paths = check_paths

    def _message(self, record: records.Model) -> models_pb2.Model:
        return messages.model(record)

    async def CreateModel(self, request: models_pb2.CreateModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        """Register a model."""
        asked = request.model
        sources.check_repository("model.repo_id", asked.repo_id)
        sources.check_repository("model.tokenizer_repo_id", asked.tokenizer_repo_id)
        sources.check_texts({"model.revision": asked.revision})
        sources.check_metadata("model.metadata", asked.metadata)
        if self._check_paths and not await self._exists(request.model_id):
            fields = ("repo_id", "tokenizer_repo_id")
            await asyncio.to_thread(source_paths.check, [(f"model.{each}", getattr(asked, each)) for each in fields])

        async def act(unit: UnitOfWork) -> records.Model:
            return await self._create(unit.conn, request)

        return await self._change("CreateModel", request, act)

    async def _create(self, conn: AsyncConnection, request: models_pb2.CreateModelRequest) -> records.Model:
        source = {field: getattr(request.model, field) for field in _SOURCE_FIELDS}
        # A uid is short enough that one may be taken.
        for _ in range(_UID_TRIES):
            made = await models.insert(
                conn,
                id=names.new_model_uid(),
                name=request.model_id,
                metadata=dict(request.model.metadata),
                **source,
            )
            if made is not None:
                return await self._begin(conn, made)
            existing = await models.find(conn, request.model_id)
            if existing is not None:
                return _same(existing, source)
        raise errors.Internal("No free uid was found for the model; try again.")

    async def _begin(self, conn: AsyncConnection, model: records.Model) -> records.Model:
        job_id = await self._shared.store.create(conn, handler.KIND, model.resource, handler.first_tasks(model))
        return await models.update(conn, model.id, job_id=job_id, status=states.MODEL.first, **failures.NO_ERROR)

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        """Read a model."""
        return messages.model(await self._get(names.parse_model(request.name)))

    async def ListModels(  # noqa: N802
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """Read a page of models."""
        page, token = await self._list(request)
        return models_pb2.ListModelsResponse(models=[messages.model(record) for record in page], next_page_token=token)

    async def UpdateModel(self, request: models_pb2.UpdateModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        """Change a model's metadata."""
        checks.check_mask(request.update_mask)
        sources.check_metadata("model.metadata", request.model.metadata)
        identifier = names.parse_model(request.model.name)

        async def act(unit: UnitOfWork) -> records.Model:
            record = await models.get(unit.conn, identifier, Lock.CHANGE)
            etags.check(record, request.model.etag)
            return await models.update(unit.conn, record.id, metadata=dict(request.model.metadata))

        return await self._change("UpdateModel", request, act)

    async def DeleteModel(self, request: models_pb2.DeleteModelRequest, context: Context) -> empty_pb2.Empty:  # noqa: N802
        """Delete a model, and its tokenizations if forced."""

        async def act(unit: UnitOfWork, record: records.Model) -> None:
            dependents = await tokenizations.depending(unit.conn, model_id=record.id)
            if dependents and not request.force:
                raise checks.depended_on(record.resource, [dependent.resource for dependent in dependents])
            await removal.tokenizations(unit, self._shared.store, self._shared.folders, dependents)
            await self._delete_rows(unit, record)

        return await self._delete("DeleteModel", request, names.parse_model(request.name), act)

    async def RetryModel(self, request: models_pb2.RetryModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        """Inspect a model again."""
        identifier = names.parse_model(request.name)

        async def act(unit: UnitOfWork) -> records.Model:
            record = await models.get(unit.conn, identifier, Lock.CHANGE)
            states.MODEL.require_retryable(record.resource, record.status)
            return await self._begin(unit.conn, record)

        return await self._change("RetryModel", request, act)

    async def WatchModel(  # noqa: N802
        self, request: models_pb2.WatchModelRequest, context: Context
    ) -> AsyncGenerator[models_pb2.WatchModelResponse]:
        """Stream a model until it is at rest."""
        async for record, _ in self._watch(names.parse_model(request.name)):
            yield models_pb2.WatchModelResponse(model=messages.model(record))


def _same(existing: records.Model, source: dict[str, object]) -> records.Model:
    differing = sources.differences({field: getattr(existing, field) for field in _SOURCE_FIELDS}, source)
    if differing:
        raise sources.exists(existing.resource, differing)
    return existing
