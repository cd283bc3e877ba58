"""Jobs of kind `training`: one task, which trains, reports on the way, and goes on from its checkpoint."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa
from google.protobuf import any_pb2, json_format
from google.protobuf.message import DecodeError
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors, manifests
from polytok.trainer.v1 import tasks_pb2
from services.jobs import payloads
from services.jobs.model import Job, NewTask, TaskResult
from services.records.job_handler import RecordJobHandler
from services.records.queries import Lock
from services.runtime.storage import Storage
from services.trainer.server import messages, metrics_repository, models
from services.trainer.server.repository import trainings

KIND = "training"
TASK = "train.run"


def create_first_task(record: models.Training, checkpoint: models.Checkpoint | None) -> NewTask:
    """Return the task of a training, from a checkpoint on if there is one."""
    payload = tasks_pb2.RunTrainingTask(
        training=record.resource,
        key=record.key,
        saes=messages.saes(record),
        parameters=messages.parameters(record),
        lineage=messages.lineage(record),
        source_key=record.source_key,
        tokenization_key=record.tokenization_key,
        vocab_size=record.vocab_size,
        tokenizer_fingerprint=record.tokenizer_fingerprint,
        live=messages.source(record).live,
    )
    point = b""
    if checkpoint is not None:
        point = tasks_pb2.ResumePoint(
            step=checkpoint.step,
            key=checkpoint.key,
            size_bytes=checkpoint.size_bytes,
            weights_fingerprint=payload.lineage.weights_fingerprint,
        ).SerializeToString()
    return NewTask(kind=TASK, payload=payloads.to_any(payload), weight=max(1, record.total_steps), resume_point=point)


class TrainingJobHandler(RecordJobHandler):
    """Brings a training from QUEUED through PROCESSING, and perhaps PAUSED, to READY, ERROR or CANCELLED."""

    repository = trainings
    on_ending: ClassVar[Mapping[str, Any]] = {"pause_requested": False}

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def started(self, conn: AsyncConnection, job: Job) -> None:
        """Record that a worker has begun."""
        began: sa.ColumnElement[Any] = sa.func.coalesce(sa.column("started_at"), sa.func.clock_timestamp())
        await self.change(conn, job, status="PROCESSING", started_at=began, phase="", phase_progress=0.0)

    async def succeeded(self, conn: AsyncConnection, job: Job, results: Sequence[TaskResult]) -> None:
        """Publish the autoencoders: the record names their folder from now on."""
        record = await trainings.find_by_job(conn, job.id)
        if record is None:
            return
        (result,) = payloads.from_any(results, tasks_pb2.RunTrainingResult)
        await self._check(record, result)
        lineage = messages.lineage(record)
        lineage.versions.update(result.versions)
        lineage.device = result.device
        # By a worker of an earlier version, as it was estimated.
        lineage.available_samples = result.available_samples or lineage.available_samples
        await metrics_repository.clear(conn, record.id)
        await self.change(
            conn,
            job,
            status="READY",
            progress=100.0,
            step=record.total_steps,
            pause_requested=False,
            result_key=result.key,
            results=[json_format.MessageToDict(each, preserving_proto_field_name=True) for each in result.results],
            manifest_digest=result.manifest_digest,
            lineage=json_format.MessageToDict(lineage, preserving_proto_field_name=True),
            completed_at=sa.func.clock_timestamp(),
        )

    async def _check(self, record: models.Training, result: tasks_pb2.RunTrainingResult) -> None:
        """Refuse an export that is not this training's, or not whole."""
        wanted = [sae["name"] for sae in record.saes]
        outside = not result.key.startswith(f"{record.key}/") or any(
            file.name.partition("/")[0] not in {*wanted, manifests.NAME} for file in result.files
        )
        if outside or [each.name for each in result.results] != wanted:
            raise errors.Internal(
                f"A worker wants to publish {result.key!r} for {record.resource}, which does not belong to it; its "
                "version does not fit this trainer's.",
                retryable=False,
            )
        await asyncio.to_thread(self._verify, result)

    def _verify(self, result: tasks_pb2.RunTrainingResult) -> None:
        self._storage.verify(f"{result.key}/{manifests.NAME}", result.manifest_digest)
        for file in result.files:
            key = f"{result.key}/{file.name}"
            size = self._storage.size(key)
            if size != file.size_bytes:
                raise errors.DataLoss(
                    f"{key}: the file has {size} bytes, not the {file.size_bytes} that were written.",
                    metadata={"file": key},
                )

    async def record(self, conn: AsyncConnection, job: Job, epoch: int, reports: Sequence[bytes]) -> None:
        """Keep metrics and checkpoints."""
        record = await trainings.find_by_job(conn, job.id)
        if record is None:
            return
        attempt = f"{job.id} {epoch}"
        found = [_report(report) for report in reports]
        begins = [report.from_step for report in found if report.begins]
        if begins:
            await metrics_repository.delete_after(conn, record.id, attempt, begins[0])
        rows = [row for report in found for row in report.metrics]
        cursor = await metrics_repository.add_metrics(conn, record.id, attempt, rows)
        for report in found:
            if report.HasField("checkpoint"):
                await metrics_repository.add_checkpoint(conn, record.id, report.checkpoint)
                await metrics_repository.keep_checkpoints(conn, record.id, report.kept_steps)
        steps = [row.step for row in rows] + [report.checkpoint.step for report in found]
        # A new attempt may begin further back.
        before = begins[0] if begins else record.step
        values: dict[str, Any] = {"step": max(before, *steps), "cursor": max(record.cursor, cursor)}
        fingerprint = next((report.weights_fingerprint for report in found if report.begins), "")
        if fingerprint:
            values["lineage"] = {**record.lineage, "weights_fingerprint": fingerprint}
        phases = [report for report in found if report.phase]
        if phases:
            values |= {"phase": messages.phase(phases[-1]), "phase_progress": phases[-1].phase_progress}
        await trainings.advance(conn, record.id, **values)

    def is_further(self, before: bytes, after: bytes) -> bool:
        """Return whether a checkpoint is of a later step than the one before."""
        if not before:
            return True
        return tasks_pb2.ResumePoint.FromString(after).step > tasks_pb2.ResumePoint.FromString(before).step

    async def is_pause_requested(self, conn: AsyncConnection, job: Job) -> bool:
        """Return whether a pause was asked for."""
        record = await trainings.find_by_job(conn, job.id, Lock.NONE)
        return record is not None and record.pause_requested

    async def paused(self, conn: AsyncConnection, job: Job, resume_point: bytes) -> None:
        """Record that the training is paused; its checkpoint is among its rows."""
        await self.change(conn, job, status="PAUSED", pause_requested=False)


def _report(data: bytes) -> tasks_pb2.TrainingReport:
    report = tasks_pb2.TrainingReport()
    try:
        right = any_pb2.Any.FromString(data).Unpack(report)
    except DecodeError:
        right = False
    if not right:
        raise errors.InvalidArgument(
            "A trainer worker reported something other than a TrainingReport; worker and trainer are of different "
            "versions, upgrade the older one.",
            reason="MESSAGE_INVALID",
        )
    return report
