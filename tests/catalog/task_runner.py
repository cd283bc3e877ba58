"""A worker that runs tasks in this process, with the functions that a task process runs."""

import asyncio

import sqlalchemy as sa
from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok import errors
from polytok.jobs.v1 import leases_pb2, messages_pb2
from services.catalog.ingest import tasks as ingest_tasks
from services.catalog.server import tables
from services.jobs.task_process_main import TaskContext
from services.tokenizer.settings import TokenizerSettings
from services.tokenizer.worker import child
from tests.catalog import harness


class TaskRunner(harness.FakeWorker):
    """One worker; what its process remembers of tokenizers and engines is its own."""

    def __init__(self, catalog: harness.CatalogHarness) -> None:
        super().__init__(catalog)
        self.done: list[str] = []
        self._functions = {
            **ingest_tasks.functions(catalog.storage),
            **child.functions(catalog.storage, TokenizerSettings(threads=1)),
        }

    async def step(self, job: str) -> None:
        """Do the next task of a job."""
        await self.end(await self.take(job))

    async def end(self, leased: harness.LeasedTask) -> None:
        """Do a task that is held, and end it."""
        self.done.append(leased.lease.kind)
        try:
            result = await self.result(leased)
        except errors.PolytokError as error:
            await leased.fail(error.reason, error.message, retryable=False)
        else:
            await leased.complete(result)

    async def result(self, leased: harness.LeasedTask) -> Message:
        """Do a task that is held, and no more than to report what is to be kept on the way."""
        events: list[messages_pb2.TaskEvent] = []
        context = TaskContext(leased.task_id, leased.lease.epoch, b"", events.append)
        payload = any_pb2.Any()
        payload.CopyFrom(leased.lease.payload)
        result = await asyncio.to_thread(self._functions[leased.lease.kind], payload, context)
        if reports := [event.report for event in events if event.HasField("report")]:
            await self.catalog.leases.ExtendLease(
                leases_pb2.ExtendLeaseRequest(task_id=leased.task_id, epoch=leased.lease.epoch, reports=reports)
            )
        return result

    async def run_until(self, job: str, kind: str) -> None:
        """Do a job up to a kind of task."""
        tasks = tables.jobs.tasks
        while True:
            async with self.catalog.database.connection() as conn:
                kinds = await conn.execute(sa.select(tasks.c.kind).where(tasks.c.id.in_(await self.due(job))))
                if kind in kinds.scalars():
                    return
            await self.step(job)

    async def run(self, job: str) -> None:
        """Do all of a job."""
        while await self.due(job):
            await self.step(job)
