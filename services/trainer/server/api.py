"""TrainingService (polytok/trainer/v1/trainings.proto)."""

import contextlib
import functools
from collections.abc import AsyncGenerator

import sqlalchemy as sa
from google.protobuf import empty_pb2

from polytok import errors
from polytok.trainer.v1 import trainings_pb2, trainings_pb2_grpc
from services.records.api import Context, Dependencies, RecordApi
from services.records.hold_client import HoldRenewer
from services.records.queries import Lock
from services.records.unit_of_work import UnitOfWork
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


class TrainingServicer(
    RecordApi[models.Training, str, trainings_pb2.Training], trainings_pb2_grpc.TrainingServiceServicer
):
    """Serves trainings."""

    message_type = trainings_pb2.Training

    def __init__(
        self, shared: Dependencies, sources: InputResolver, holds: HoldRenewer, metrics: metrics_stream.MetricsStream
    ) -> None:
        super().__init__(shared, trainings, states.TRAINING)
        self._creation = service.TrainingService(shared.store)
        self._sources = sources
        self._holds = holds
        self._metrics = metrics

    def _message(self, record: models.Training) -> trainings_pb2.Training:
        return messages.training(record, self._shared.storage)

    async def CreateTraining(  # noqa: N802
        self, request: trainings_pb2.CreateTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Start a training."""
        source = await self._sources.find(request.source, inputs.list_hooks(request.saes))
        row = service.resolve_columns(request, source)
        if await self._known(row["name"]):
            return await self._change("CreateTraining", request, lambda unit: self._creation.existing(unit.conn, row))
        # Held before there is a record: nothing can delete what was checked.
        holder = resource_names.format_name(row["name"])
        try:
            key = await self._sources.hold(source.lineage, holder)
            row |= {"source_key": source.key or key, "tokenization_key": key}
            return await self._change("CreateTraining", request, lambda unit: self._creation.create(unit.conn, row))
        except errors.PolytokError:
            with contextlib.suppress(errors.PolytokError):
                # Otherwise a hold ends when it expires.
                if not await self._known(row["name"]):
                    await self._sources.release(source.lineage, holder)
            raise

    async def _known(self, name: str) -> bool:
        async with self._database.connection() as conn:
            return await trainings.find(conn, name) is not None

    async def GetTraining(  # noqa: N802
        self, request: trainings_pb2.GetTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Read a training."""
        return self._message(await self._get(resource_names.parse_name(request.name)))

    async def ListTrainings(  # noqa: N802
        self, request: trainings_pb2.ListTrainingsRequest, context: Context
    ) -> trainings_pb2.ListTrainingsResponse:
        """Read a page of trainings."""
        page, token = await self._list(request)
        return trainings_pb2.ListTrainingsResponse(
            trainings=[self._message(record) for record in page], next_page_token=token
        )

    async def DeleteTraining(  # noqa: N802
        self, request: trainings_pb2.DeleteTrainingRequest, context: Context
    ) -> empty_pb2.Empty:
        """Delete a training with its files."""

        async def act(unit: UnitOfWork, record: models.Training) -> None:
            if record.held:
                lineage = messages.lineage(record)
                unit.after_commit.append(functools.partial(self._sources.release, lineage, record.resource))
            await self._delete_rows(unit, record, record.key)

        return await self._delete("DeleteTraining", request, resource_names.parse_name(request.name), act)

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
                await self._shared.store.request_pause(unit.conn, job_id)
                record = await trainings.get(unit.conn, identifier, Lock.CHANGE)
                if record.job_id == job_id:
                    break
            if record.status == "PAUSED" or record.pause_requested:
                return record
            states.require_pausable(record.resource, record.status)
            return await trainings.update(unit.conn, record.id, pause_requested=True)

        return await self._change("PauseTraining", request, act)

    async def ResumeTraining(  # noqa: N802
        self, request: trainings_pb2.ResumeTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Continue a paused training."""
        known = await self._get(resource_names.parse_name(request.name))
        if known.status == "PAUSED":
            await self._sources.hold(messages.lineage(known), known.resource)

        async def act(unit: UnitOfWork) -> models.Training:
            record = await trainings.get(unit.conn, known.name, Lock.CHANGE)
            if record.pause_requested and states.TRAINING.is_live(record.status):
                # The pause has not happened yet, and need not any more.
                return await trainings.update(unit.conn, record.id, pause_requested=False)
            states.require_paused(record.resource, record.name, record.status)
            return await self._creation.begin(unit.conn, record, from_start=False)

        return await self._change("ResumeTraining", request, act)

    async def CancelTraining(  # noqa: N802
        self, request: trainings_pb2.CancelTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Stop a training for good."""

        async def act(unit: UnitOfWork) -> models.Training:
            record = await self._stop(unit.conn, resource_names.parse_name(request.name))
            if record.status != "CANCELLED":
                states.require_cancellable(record.resource, record.status)
                record = await trainings.update(
                    unit.conn, record.id, status="CANCELLED", completed_at=sa.func.clock_timestamp()
                )
            await metrics_repository.clear(unit.conn, record.id)
            self._delete_folders(unit, record.key)
            return record

        return await self._change("CancelTraining", request, act)

    async def RetryTraining(  # noqa: N802
        self, request: trainings_pb2.RetryTrainingRequest, context: Context
    ) -> trainings_pb2.Training:
        """Train again."""
        known = await self._get(resource_names.parse_name(request.name))
        if known.status in states.TRAINING.terminal - {"READY"}:
            await self._sources.hold(messages.lineage(known), known.resource)

        async def act(unit: UnitOfWork) -> models.Training:
            record = await trainings.get(unit.conn, known.name, Lock.CHANGE)
            states.require_retryable(record.resource, record.name, record.status)
            from_start = request.from_start or record.status == "CANCELLED"
            # Again after the commit: the hold of the attempt that failed may be released at this moment.
            unit.after_commit.append(functools.partial(self._holds.renew, {record.resource}))
            return await self._creation.begin(unit.conn, record, from_start=from_start)

        return await self._change("RetryTraining", request, act)

    async def WatchTraining(  # noqa: N802
        self, request: trainings_pb2.WatchTrainingRequest, context: Context
    ) -> AsyncGenerator[trainings_pb2.WatchTrainingResponse]:
        """Stream a training and its metrics until it is at rest."""
        first = await self._get(resource_names.parse_name(request.name))
        async for response in self._metrics.follow(first.id, request):
            yield response

    async def ListCheckpoints(  # noqa: N802
        self, request: trainings_pb2.ListCheckpointsRequest, context: Context
    ) -> trainings_pb2.ListCheckpointsResponse:
        """Read the checkpoints of a training."""
        async with self._database.connection() as conn:
            record = await trainings.get(conn, resource_names.parse_name(request.parent))
            found = await metrics_repository.list_checkpoints(conn, record.id)
        return trainings_pb2.ListCheckpointsResponse(
            checkpoints=[messages.checkpoint(each, self._shared.storage) for each in found]
        )

    async def ListMetrics(  # noqa: N802
        self, request: trainings_pb2.ListMetricsRequest, context: Context
    ) -> trainings_pb2.ListMetricsResponse:
        """Read a page of the metrics of a training."""
        record = await self._get(resource_names.parse_name(request.parent))
        return await self._metrics.page(record, request)
