"""ModelService (polytok/catalog/v1/models.proto)."""

import functools
from collections.abc import AsyncGenerator

from google.protobuf import empty_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.catalog.v1 import models_pb2, models_pb2_grpc
from services.catalog.server import dependencies, events, messages
from services.catalog.server.dependencies import Context, Dependencies
from services.catalog.server.domain import names, not_found, records, sources, states
from services.catalog.server.jobs import models as handler
from services.catalog.server.repository import models, tokenizations
from services.catalog.server.service import removal
from services.jobs import failures
from services.records import cancellation, etags, pagination
from services.records.queries import Lock
from services.records.unit_of_work import UnitOfWork

_UID_TRIES = 5
_SOURCE_FIELDS = ("repo_id", "revision", "tokenizer_repo_id")


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """Serves models."""

    def __init__(self, shared: Dependencies) -> None:
        self._database = shared.database
        self._store = shared.store
        self._folders = shared.folders
        self._watch = shared.watch
        self._transactions = shared.transactions

    async def CreateModel(self, request: models_pb2.CreateModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        """Register a model."""
        asked = request.model
        sources.check_repository("model.repo_id", asked.repo_id)
        sources.check_repository("model.tokenizer_repo_id", asked.tokenizer_repo_id)
        sources.check_texts({"model.revision": asked.revision})
        sources.check_metadata("model.metadata", asked.metadata)

        async def act(unit: UnitOfWork) -> models_pb2.Model:
            return messages.model(await self._create(unit.conn, request))

        return await self._transactions.run("CreateModel", request, models_pb2.Model, act)

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
        job_id = await self._store.create(conn, handler.KIND, model.resource, handler.first_tasks(model))
        started = await models.update(conn, model.id, job_id=job_id, status=states.MODEL.first, **failures.NO_ERROR)
        await events.notify_changed(conn, model.id)
        return started

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        """Read a model."""
        async with self._database.connection() as conn:
            return messages.model(await models.get(conn, names.parse_model(request.name)))

    async def ListModels(  # noqa: N802
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """Read a page of models."""
        statuses = [models_pb2.Model.State.Name(state).removeprefix("STATE_") for state in request.states]
        after = pagination.after(request, str)
        async with self._database.connection() as conn:
            found = await models.page(conn, statuses, after, pagination.size(request) + 1)
        page, token = pagination.cut(request, found)
        return models_pb2.ListModelsResponse(models=[messages.model(record) for record in page], next_page_token=token)

    async def UpdateModel(self, request: models_pb2.UpdateModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        """Change a model's metadata."""
        dependencies.check_mask(request.update_mask)
        sources.check_metadata("model.metadata", request.model.metadata)
        identifier = names.parse_model(request.model.name)

        async def act(unit: UnitOfWork) -> models_pb2.Model:
            record = await models.get(unit.conn, identifier, Lock.CHANGE)
            etags.check(record, request.model.etag)
            record = await models.update(unit.conn, record.id, metadata=dict(request.model.metadata))
            await events.notify_changed(unit.conn, record.id)
            return messages.model(record)

        return await self._transactions.run("UpdateModel", request, models_pb2.Model, act)

    async def DeleteModel(self, request: models_pb2.DeleteModelRequest, context: Context) -> empty_pb2.Empty:  # noqa: N802
        """Delete a model, and its tokenizations if forced."""

        async def act(unit: UnitOfWork) -> empty_pb2.Empty:
            await self._delete(unit, request)
            return empty_pb2.Empty()

        return await self._transactions.run("DeleteModel", request, empty_pb2.Empty, act)

    async def _delete(self, unit: UnitOfWork, request: models_pb2.DeleteModelRequest) -> None:
        identifier = names.parse_model(request.name)
        record = await cancellation.cancel_job_and_lock(
            unit.conn, self._store, functools.partial(models.find, unit.conn, identifier)
        )
        if record is None:
            raise not_found.model(identifier, await models.known(unit.conn))
        etags.check(record, request.etag)
        dependents = await tokenizations.depending(unit.conn, model_id=record.id)
        if dependents and not request.force:
            raise dependencies.depended_on(record.resource, [dependent.resource for dependent in dependents])
        await removal.tokenizations(unit, self._store, self._folders, dependents)
        await cancellation.delete_jobs(unit.conn, self._store, record.resource)
        await models.delete(unit.conn, record.id)
        await events.notify_changed(unit.conn, record.id)

    async def RetryModel(self, request: models_pb2.RetryModelRequest, context: Context) -> models_pb2.Model:  # noqa: N802
        """Inspect a model again."""
        identifier = names.parse_model(request.name)

        async def act(unit: UnitOfWork) -> models_pb2.Model:
            record = await models.get(unit.conn, identifier, Lock.CHANGE)
            states.MODEL.require_retryable(record.resource, record.status)
            return messages.model(await self._begin(unit.conn, record))

        return await self._transactions.run("RetryModel", request, models_pb2.Model, act)

    async def WatchModel(  # noqa: N802
        self, request: models_pb2.WatchModelRequest, context: Context
    ) -> AsyncGenerator[models_pb2.WatchModelResponse]:
        """Stream a model until it is at rest."""
        async with self._database.connection() as conn:
            first = await models.get(conn, names.parse_model(request.name))

        async def read(conn: AsyncConnection) -> records.Model | None:
            return await models.find(conn, first.id)

        async for record, _ in self._watch.follow(first.id, states.MODEL, read):
            yield models_pb2.WatchModelResponse(model=messages.model(record))


def _same(existing: records.Model, source: dict[str, object]) -> records.Model:
    differing = sources.differences({field: getattr(existing, field) for field in _SOURCE_FIELDS}, source)
    if differing:
        raise sources.exists(existing.resource, differing)
    return existing
