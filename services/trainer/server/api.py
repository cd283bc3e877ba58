"""TrainingService (polytok/trainer/v1/trainings.proto)."""

import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import sqlalchemy as sa
from google.protobuf import empty_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.trainer.v1 import trainings_pb2, trainings_pb2_grpc
from services.jobs.store import JobStore
from services.records import cancellation, etags, pagination
from services.records.hold_client import HoldRenewer
from services.records.queries import Lock
from services.records.storage_folders import StorageFolders
from services.records.unit_of_work import IdempotentTransactions, UnitOfWork
from services.runtime.database import Database
from services.runtime.storage import Storage
from services.trainer.server import (
    inputs,
    messages,
    metrics_repository,
    metrics_stream,
    models,
    resource_names,
    service,
    states,
)
from services.trainer.server.inputs import InputResolver
from services.trainer.server.repository import trainings

Context = grpc.aio.ServicerContext[Any, Any]
_Message = trainings_pb2.Training


@dataclass(frozen=True)
class Dependencies:
    """The resources of one trainer process."""

    database: Database
    storage: Storage
    store: JobStore
    folders: StorageFolders
    transactions: IdempotentTransactions
    sources: InputResolver
    holds: HoldRenewer
    metrics: metrics_stream.MetricsStream


class TrainingServicer(trainings_pb2_grpc.TrainingServiceServicer):
    """Serves trainings."""

    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts
        self._creation = service.TrainingService(parts.store)

    def _message(self, record: models.Training) -> _Message:
        return messages.training(record, self._parts.storage)

    async def _mutate(
        self, method: str, request: Any, act: Callable[[UnitOfWork], Awaitable[models.Training]]
    ) -> trainings_pb2.Training:
        async def answer(unit: UnitOfWork) -> _Message:
            return self._message(await act(unit))

        return await self._parts.transactions.run(method, request, _Message, answer)

    async def CreateTraining(  # noqa: N802
        self, request: trainings_pb2.CreateTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Start a training."""
        source = await self._parts.sources.find(request.source, inputs.list_hooks(request.saes))
        row = service.resolve_columns(request, source)
        if await self._known(row["name"]):
            return await self._mutate("CreateTraining", request, lambda unit: self._creation.existing(unit.conn, row))
        # Held before there is a record: nothing can delete what was checked.
        holder = resource_names.format_name(row["name"])
        try:
            key = await self._parts.sources.hold(source.lineage, holder)
            row |= {"source_key": source.key or key, "tokenization_key": key}
            return await self._mutate("CreateTraining", request, lambda unit: self._creation.create(unit.conn, row))
        except errors.PolytokError:
            with contextlib.suppress(errors.PolytokError):
                # Otherwise a hold ends when its time is over.
                if not await self._known(row["name"]):
                    await self._parts.sources.release(source.lineage, holder)
            raise

    async def _known(self, name: str) -> bool:
        async with self._parts.database.connection() as conn:
            return await trainings.find(conn, name) is not None

    async def GetTraining(  # noqa: N802
        self, request: trainings_pb2.GetTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Read a training."""
        return self._message(await self._get(request.name))

    async def _get(self, name: str) -> models.Training:
        async with self._parts.database.connection() as conn:
            return await trainings.get(conn, resource_names.parse_name(name))

    async def ListTrainings(  # noqa: N802
        self, request: trainings_pb2.ListTrainingsRequest, context: Context
    ) -> trainings_pb2.ListTrainingsResponse:
        """Read a page of trainings."""
        statuses = [_Message.State.Name(state).removeprefix("STATE_") for state in request.states]
        after = pagination.after(request, pagination.read_uuid)
        async with self._parts.database.connection() as conn:
            found = await trainings.page(conn, statuses, after, pagination.size(request) + 1)
        page, token = pagination.cut(request, found)
        return trainings_pb2.ListTrainingsResponse(
            trainings=[self._message(record) for record in page], next_page_token=token
        )

    async def DeleteTraining(  # noqa: N802
        self, request: trainings_pb2.DeleteTrainingRequest, context: Context
    ) -> empty_pb2.Empty:
        """Delete a training with its files."""

        async def act(unit: UnitOfWork) -> empty_pb2.Empty:
            record = await self._stopped(unit.conn, request.name)
            etags.check(record, request.etag)
            await cancellation.delete_jobs(unit.conn, self._parts.store, record.resource)
            await trainings.delete(unit.conn, record.id)
            if record.held:
                lineage = messages.lineage(record)
                unit.after_commit.append(functools.partial(self._parts.sources.release, lineage, record.resource))
            unit.after_commit.append(functools.partial(self._parts.folders.delete_if_unused, record.key))
            return empty_pb2.Empty()

        return await self._parts.transactions.run("DeleteTraining", request, empty_pb2.Empty, act)

    async def _stopped(self, conn: AsyncConnection, name: str) -> models.Training:
        """Return the training, locked, without a job at it."""
        identifier = resource_names.parse_name(name)
        record = await cancellation.cancel_job_and_lock(
            conn, self._parts.store, functools.partial(trainings.find, conn, identifier)
        )
        if record is None:
            raise await trainings.not_found(conn, identifier)
        return record

    async def PauseTraining(  # noqa: N802
        self, request: trainings_pb2.PauseTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Have a training stop at a checkpoint."""

        async def act(unit: UnitOfWork) -> models.Training:
            identifier = resource_names.parse_name(request.name)
            record = await trainings.get(unit.conn, identifier)
            while record.job_id is not None and states.TRAINING.is_live(record.status):
                # Before the record is locked: the job library's order is job, task, record.
                job_id = record.job_id
                await self._parts.store.request_pause(unit.conn, job_id)
                record = await trainings.get(unit.conn, identifier, Lock.CHANGE)
                if record.job_id == job_id:
                    break
            if record.status == "PAUSED" or record.pause_requested:
                return record
            states.require_pausable(record.resource, record.status)
            return await trainings.update(unit.conn, record.id, pause_requested=True)

        return await self._mutate("PauseTraining", request, act)

    async def ResumeTraining(  # noqa: N802
        self, request: trainings_pb2.ResumeTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Go on with a paused training."""
        known = await self._get(request.name)
        if known.status == "PAUSED":
            await self._parts.sources.hold(messages.lineage(known), known.resource)

        async def act(unit: UnitOfWork) -> models.Training:
            record = await trainings.get(unit.conn, known.name, Lock.CHANGE)
            if record.pause_requested and states.TRAINING.is_live(record.status):
                # The pause has not happened yet, and need not any more.
                return await trainings.update(unit.conn, record.id, pause_requested=False)
            states.require_paused(record.resource, record.name, record.status)
            return await self._creation.begin(unit.conn, record, from_start=False)

        return await self._mutate("ResumeTraining", request, act)

    async def CancelTraining(  # noqa: N802
        self, request: trainings_pb2.CancelTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Stop a training for good."""

        async def act(unit: UnitOfWork) -> models.Training:
            record = await self._stopped(unit.conn, request.name)
            if record.status != "CANCELLED":
                states.require_cancellable(record.resource, record.status)
                record = await trainings.update(
                    unit.conn, record.id, status="CANCELLED", completed_at=sa.func.clock_timestamp()
                )
            await metrics_repository.clear(unit.conn, record.id)
            unit.after_commit.append(functools.partial(self._parts.folders.delete_if_unused, record.key))
            return record

        return await self._mutate("CancelTraining", request, act)

    async def RetryTraining(  # noqa: N802
        self, request: trainings_pb2.RetryTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Train again."""
        known = await self._get(request.name)
        if known.status in states.TRAINING.terminal - {"READY"}:
            await self._parts.sources.hold(messages.lineage(known), known.resource)

        async def act(unit: UnitOfWork) -> models.Training:
            record = await trainings.get(unit.conn, known.name, Lock.CHANGE)
            states.require_retryable(record.resource, record.name, record.status)
            from_start = request.from_start or record.status == "CANCELLED"
            # Again behind the commit: the hold of the try that failed may be let go of just now.
            unit.after_commit.append(functools.partial(self._parts.holds.renew, {record.resource}))
            return await self._creation.begin(unit.conn, record, from_start=from_start)

        return await self._mutate("RetryTraining", request, act)

    async def WatchTraining(  # noqa: N802
        self, request: trainings_pb2.WatchTrainingRequest, context: Context
    ) -> AsyncGenerator[trainings_pb2.WatchTrainingResponse]:
        """Stream a training and its metrics until it is at rest."""
        first = await self._get(request.name)
        async for response in self._parts.metrics.follow(first.id, request):
            yield response

    async def ListCheckpoints(  # noqa: N802
        self, request: trainings_pb2.ListCheckpointsRequest, context: Context
    ) -> trainings_pb2.ListCheckpointsResponse:
        """Read the checkpoints of a training."""
        async with self._parts.database.connection() as conn:
            record = await trainings.get(conn, resource_names.parse_name(request.parent))
            found = await metrics_repository.list_checkpoints(conn, record.id)
        return trainings_pb2.ListCheckpointsResponse(
            checkpoints=[messages.checkpoint(each, self._parts.storage) for each in found]
        )

    async def ListMetrics(  # noqa: N802
        self, request: trainings_pb2.ListMetricsRequest, context: Context
    ) -> trainings_pb2.ListMetricsResponse:
        """Read a page of the metrics of a training."""
        record = await self._get(request.parent)
        return await self._parts.metrics.page(record, request)
