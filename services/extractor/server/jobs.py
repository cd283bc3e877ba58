"""Jobs of kind `extraction`: a plan, a task for each range of rows, then one that publishes."""

from collections.abc import Sequence

import sqlalchemy as sa
from google.protobuf import json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import manifests
from polytok.extractor.v1 import tasks_pb2
from services.extractor.server import messages, resource_names
from services.extractor.server.models import Extraction
from services.extractor.server.repository import extractions
from services.jobs import payloads
from services.jobs.model import Job, NewTask, TaskResult
from services.records import publication
from services.records.job_handler import RecordJobHandler
from services.runtime.storage import Storage

KIND = "extraction"
_PLAN = "extract.plan"
_PUBLISH = "extract.publish"
_EXTRACTING, _PUBLISHING = 30, 1
"""A model's pass over a token is so much work against reading again what was written of it, to publish it."""
_NAMES = manifests.NAMES | resource_names.SIDECARS


def create_first_tasks(extraction: Extraction, range_bytes: int) -> list[NewTask]:
    """Return the task that a job begins with."""
    task = tasks_pb2.PlanExtractionTask(order=messages.order(extraction), range_bytes=range_bytes)
    return [NewTask(kind=_PLAN, payload=payloads.to_any(task))]


class ExtractionJobHandler(RecordJobHandler):
    """Brings an extraction from QUEUED through PROCESSING to READY, ERROR or CANCELLED."""

    repository = extractions

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def started(self, conn: AsyncConnection, job: Job) -> None:
        """Record that a worker has begun."""
        await self.change(conn, job, status="PROCESSING", started_at=sa.func.clock_timestamp())

    async def next_stage(
        self, conn: AsyncConnection, job: Job, stage: int, results: Sequence[TaskResult]
    ) -> Sequence[NewTask]:
        """Plan, ranges, publish."""
        extraction = await extractions.find_by_job(conn, job.id)
        if extraction is None or results[0].kind == _PUBLISH:
            return []
        order = messages.order(extraction)
        if results[0].kind == _PLAN:
            (plan,) = payloads.from_any(results, tasks_pb2.PlanExtractionResult)
            expected = sum(each.num_tokens for each in plan.ranges)
            await self.change(conn, job, expected_tokens=expected, weights_fingerprint=plan.weights_fingerprint)
            order.weights_fingerprint = plan.weights_fingerprint
            return _ranges(order, plan.ranges)
        ranges = payloads.from_any(results, tasks_pb2.ExtractRangeResult)
        files = [file for each in ranges for file in each.files]
        publication.check_inside(
            extraction.path, [*(file.key for file in files), *(each.statistics.key for each in ranges)]
        )
        await extractions.replace_files(conn, extraction.id, files)
        return [
            NewTask(
                kind=_PUBLISH,
                payload=payloads.to_any(tasks_pb2.PublishExtractionTask(order=order, ranges=ranges)),
                weight=_PUBLISHING,
            )
        ]

    async def succeeded(self, conn: AsyncConnection, job: Job, results: Sequence[TaskResult]) -> None:
        """Publish the files."""
        extraction = await extractions.find_by_job(conn, job.id)
        if extraction is None:
            return
        (found,) = payloads.from_any(results, tasks_pb2.PublishExtractionResult)
        await publication.publish(self._storage, extraction.path, found.staged_files, names=_NAMES)
        now = (await conn.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
        started = extraction.started_at or now
        found.statistics.seconds = (now - started).total_seconds()
        await self.change(
            conn,
            job,
            status="READY",
            progress=100.0,
            statistics=json_format.MessageToDict(found.statistics, preserving_proto_field_name=True),
            manifest_digest=found.manifest_digest,
            completed_at=now,
        )


def _ranges(order: tasks_pb2.ExtractionOrder, ranges: Sequence[tasks_pb2.RowRange]) -> list[NewTask]:
    return [
        NewTask(
            kind="extract.range",
            payload=payloads.to_any(
                tasks_pb2.ExtractRangeTask(order=order, range=each, ordinal=ordinal, count=len(ranges))
            ),
            ordinal=ordinal,
            weight=max(1, each.num_tokens) * _EXTRACTING,
            ahead=max(1, each.num_tokens) * _PUBLISHING,
        )
        for ordinal, each in enumerate(ranges)
    ]
