"""Jobs of kind `dataset.ingest`: plan the source, read its parts, publish the shards."""

import json
from collections.abc import Sequence

import sqlalchemy as sa
from google.protobuf import json_format
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.server.domain import names, records
from services.catalog.server.jobs import stage_results
from services.catalog.server.repository.datasets import datasets
from services.jobs import payloads
from services.jobs.model import Job, NewTask, TaskResult
from services.records import publication
from services.records.job_handler import RecordJobHandler
from services.runtime.storage import Storage

KIND = "dataset.ingest"
_READING, _CHECKING = 10, 1
"""Reading a part's rows is so much work against reading again what was written of them, to publish it."""


def first_tasks(dataset: records.Dataset) -> list[NewTask]:
    """Return the tasks that a job begins with."""
    source = json_format.ParseDict(dict(dataset.source), datasets_pb2.DatasetSource())
    plan = tasks_pb2.PlanIngestTask(source=source)
    if source.HasField("upload"):
        plan.upload_key = names.upload_key(dataset.id)
    return [NewTask(kind="ingest.plan", payload=payloads.to_any(plan))]


class DatasetJobHandler(RecordJobHandler):
    """Brings a dataset from PENDING through DOWNLOADING and PROCESSING to READY, ERROR or CANCELLED."""

    repository = datasets

    def __init__(self, storage: Storage, shard_bytes: int) -> None:
        self._storage = storage
        self._shard_bytes = shard_bytes

    async def started(self, conn: AsyncConnection, job: Job) -> None:
        """Mark the dataset: its source is being examined."""
        await self.change(conn, job, status="DOWNLOADING")

    async def next_stage(
        self, conn: AsyncConnection, job: Job, stage: int, results: Sequence[TaskResult]
    ) -> Sequence[NewTask]:
        """Plan, then read, then publish."""
        dataset = await datasets.find_by_job(conn, job.id)
        if dataset is None:
            return []
        if results[0].kind == "ingest.publish":
            (published,) = payloads.from_any(results, tasks_pb2.PublishDatasetResult)
            if not published.untyped_columns:
                return []
            planned = await stage_results.latest_results(conn, job, {"ingest.plan"})
            (plan,) = payloads.from_any(planned, tasks_pb2.PlanIngestResult)
            return self._reading(dataset, plan, untyped=published.untyped_columns)
        if results[0].kind == "ingest.plan":
            (plan,) = payloads.from_any(results, tasks_pb2.PlanIngestResult)
            commit = plan.parts[0].hub.source.revision if plan.parts else ""
            await self.change(conn, job, status="PROCESSING", commit=commit)
            return self._reading(dataset, plan)
        parts = payloads.from_any(results, tasks_pb2.ReadPartResult)
        publishing = tasks_pb2.PublishDatasetTask(raw_key=dataset.raw_path, parts=parts, shard_bytes=self._shard_bytes)
        return [NewTask(kind="ingest.publish", payload=payloads.to_any(publishing), weight=_CHECKING)]

    def _reading(
        self, dataset: records.Dataset, plan: tasks_pb2.PlanIngestResult, *, untyped: Sequence[str] = ()
    ) -> list[NewTask]:
        if not plan.parts:
            raise errors.FailedPrecondition(
                f"The source of {dataset.resource} holds nothing to read.", reason="SOURCE_EMPTY"
            )
        sizes = [part.file.size_bytes or part.upload.size_bytes for part in plan.parts]
        known = all(sizes)
        return [
            NewTask(
                kind="ingest.read",
                payload=payloads.to_any(
                    tasks_pb2.ReadPartTask(
                        part=part,
                        raw_key=dataset.raw_path,
                        ordinal=ordinal,
                        shard_bytes=self._shard_bytes,
                        columns=dataset.source.get("columns", ()),
                        untyped_columns=untyped,
                    )
                ),
                ordinal=ordinal,
                weight=(size if known else 1) * _READING,
                ahead=(size if known else 1) * _CHECKING,
            )
            for ordinal, (part, size) in enumerate(zip(plan.parts, sizes, strict=True))
        ]

    async def succeeded(self, conn: AsyncConnection, job: Job, results: Sequence[TaskResult]) -> None:
        """Publish the shards."""
        dataset = await datasets.find_by_job(conn, job.id)
        if dataset is None:
            return
        (found,) = payloads.from_any(results, tasks_pb2.PublishDatasetResult)
        publication.check_inside(dataset.raw_path, [shard.key for shard in found.shards])
        await publication.publish(self._storage, dataset.raw_path, found.staged_files)
        shards = [
            records.Shard(shard.key, shard.num_rows, shard.size_bytes, shard.sha256, shard.text_bytes)
            for shard in found.shards
        ]
        await datasets.replace_shards(conn, dataset.id, shards)
        await self.change(
            conn,
            job,
            status="READY",
            progress=100.0,
            num_samples=found.num_rows,
            size_bytes=found.size_bytes,
            num_shards=len(shards),
            columns=[_column(column) for column in found.columns],
            features=json.loads(found.features_json or "{}"),
            fingerprint=found.fingerprint,
            completed_at=sa.func.clock_timestamp(),
        )


def _column(column: datasets_pb2.Column) -> dict[str, str]:
    """Return a column as its record has it; what its values are only where the type does not say it."""
    content = datasets_pb2.Column.Content.Name(column.content).removeprefix("CONTENT_")
    return {"name": column.name, "type": column.type, **({"content": content} if column.content else {})}
