"""Estimates: a job of one task, whose answer the caller waits for; nothing of it stays."""

import asyncio
import contextlib
import datetime
import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from polytok.errors import codec
from polytok.extractor.v1 import extractions_pb2, tasks_pb2
from services.extractor.server import resource_names, tables
from services.extractor.server.repository import extractions
from services.jobs import payloads
from services.jobs.failures import Failure
from services.jobs.model import Job, JobHandler, JobState, NewTask, TaskResult
from services.jobs.store import JobStore
from services.records.watch import Watch
from services.runtime.database import Database

KIND = "extraction.estimate"
_POLL_SECONDS = 1.0


class EstimateJobHandler(JobHandler):
    """Wakes the callers that wait for the estimate."""

    async def succeeded(self, conn: AsyncConnection, job: Job, results: Sequence[TaskResult]) -> None:
        """Report the estimate."""
        await extractions.notify_changed(conn, job.id)

    async def failed(self, conn: AsyncConnection, job: Job, failure: Failure) -> None:
        """Report the failure of the trial."""
        await extractions.notify_changed(conn, job.id)


class EstimateService:
    """Has workers try extractions out."""

    def __init__(self, database: Database, store: JobStore, watch: Watch, seconds: float) -> None:
        self._database = database
        self._store = store
        self._watch = watch
        self._seconds = seconds

    async def estimate(self, order: tasks_pb2.ExtractionOrder) -> extractions_pb2.EstimateExtractionResponse:
        """Return what an extraction would take.

        Raises what would stop it, and DeadlineExceeded if no worker is free.
        """
        uid = uuid.uuid4()
        # Among extractions, where the garbage collector finds what a killed worker leaves.
        order.extraction_key = resource_names.storage_key(uid)
        payload = payloads.to_any(tasks_pb2.EstimateExtractionTask(order=order))
        task = NewTask(kind="extract.estimate", payload=payload, max_attempts=1)
        async with self._database.transaction() as conn:
            job_id = await self._store.create(conn, KIND, f"estimates/{uid}", [task])
        try:
            return await self._answer(job_id)
        finally:
            # A caller that cancels leaves nothing behind; a worker that runs the trial is stopped.
            await asyncio.shield(self._drop(job_id))

    async def _answer(self, job_id: uuid.UUID) -> extractions_pb2.EstimateExtractionResponse:
        try:
            async with asyncio.timeout(self._seconds):
                job = await self._ended(job_id)
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"No worker tried the extraction out within {self._seconds:.0f} s: all are busy, or none runs. "
                "`polytok extraction list` shows what they are at; ask again later, or start more workers."
            ) from None
        if job.state != JobState.SUCCEEDED:
            message = job.error_message or "The trial failed."
            raise codec.from_record(job.error_reason or "", message, codec.from_json(job.error))
        async with self._database.connection() as conn:
            results = await self._store.rows.results(conn, job_id, 0)
        (found,) = payloads.from_any(results, tasks_pb2.EstimateExtractionResult)
        return found.estimate

    async def _ended(self, job_id: uuid.UUID) -> Job:
        with self._watch.listening(str(job_id)) as event:
            while True:
                event.clear()
                async with self._database.connection() as conn:
                    job = await self._store.get(conn, job_id)
                if job is None:
                    raise errors.Unavailable("The estimate was dropped while it was made; ask again.")
                if job.state != JobState.ACTIVE:
                    return job
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await event.wait()

    async def _drop(self, job_id: uuid.UUID) -> None:
        async with self._database.transaction() as conn:
            await self._store.delete(conn, job_id)


async def delete_expired(conn: AsyncConnection, age: datetime.timedelta) -> None:
    """Drop the estimates that nobody can wait for any more: their server died."""
    jobs = tables.jobs.jobs
    old = jobs.c.created_at < sa.func.clock_timestamp() - 2 * age
    await conn.execute(jobs.delete().where(jobs.c.kind == KIND, old))
