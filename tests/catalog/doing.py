"""A worker that does tasks itself, with the very functions that a worker's child process runs."""

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
from tests.catalog import hands


class Doer(hands.Worker):
    """One worker; what its process remembers of tokenizers and engines is its own."""

    def __init__(self, catalog: hands.Running) -> None:
        super().__init__(catalog)
        self.done: list[str] = []
        self._functions = {
            **ingest_tasks.functions(catalog.storage),
            **child.functions(catalog.storage, TokenizerSettings(threads=1)),
        }

    async def step(self, job: str) -> None:
        """Does the next task of a job."""
        await self.end(await self.take(job))

    async def end(self, held: hands.Held) -> None:
        """Does a task that is held, and ends it."""
        self.done.append(held.lease.kind)
        try:
            result = await self.result(held)
        except errors.PolytokError as error:
            await held.fail(error.reason, error.message, retryable=False)
        else:
            await held.complete(result)

    async def result(self, held: hands.Held) -> Message:
        """Does a task that is held, and no more than to report what is to be kept on the way."""
        events: list[messages_pb2.TaskEvent] = []
        context = TaskContext(held.task_id, held.lease.epoch, b"", events.append)
        payload = any_pb2.Any()
        payload.CopyFrom(held.lease.payload)
        result = await asyncio.to_thread(self._functions[held.lease.kind], payload, context)
        if reports := [event.report for event in events if event.HasField("report")]:
            await self.catalog.leases.ExtendLease(
                leases_pb2.ExtendLeaseRequest(task_id=held.task_id, epoch=held.lease.epoch, reports=reports)
            )
        return result

    async def run_until(self, job: str, kind: str) -> None:
        """Does a job up to a kind of task."""
        tasks = tables.jobs.tasks
        while True:
            async with self.catalog.database.connection() as conn:
                kinds = await conn.execute(sa.select(tasks.c.kind).where(tasks.c.id.in_(await self.due(job))))
                if kind in kinds.scalars():
                    return
            await self.step(job)

    async def run(self, job: str) -> None:
        """Does all of a job."""
        while await self.due(job):
            await self.step(job)
