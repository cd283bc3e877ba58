# ruff: noqa: ASYNC110  what is awaited happens in other processes
"""A service with nothing but jobs: a record for each, a handler that writes it, and the lease service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import sqlalchemy as sa
from nats.aio.client import Client

from polytok import channels
from polytok.jobs.v1 import leases_pb2_grpc
from services.jobs import model
from services.jobs.api import LeaseServicer
from services.jobs.background_tasks import JobBackgroundTasks
from services.jobs.failures import Failure
from services.jobs.store import JobStore
from services.jobs.tables import JobTables
from services.jobs.worker import Worker
from services.runtime import messaging
from services.runtime.database import Database, open_database
from services.runtime.notifications import Listener
from services.runtime.process import StopSignal
from services.runtime.rpc.server import Server
from services.runtime.settings import DatabaseSettings, JobSettings, MessagingSettings, ServerSettings, WorkerSettings
from tests.jobs.payloads import TASK_PROCESS_PROGRAM, pack
from tests.support import tasks

KIND = "record"
TASK = "test.run"
WORKER_PROGRAM = pathlib.Path(__file__).with_name("worker_program.py")

PATIENCE_SECONDS = 120.0
"""How long a test waits for what takes a moment on an idle machine; other processes may have all of its cores."""

METADATA = sa.MetaData()
TABLES = JobTables(METADATA)
RECORDS = sa.Table(
    "records",
    METADATA,
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("percent", sa.Float, nullable=False, server_default="0"),
    sa.Column("published", sa.Integer, nullable=False, server_default="0"),
    sa.Column("error", sa.Text),
)


def task(
    do: str = "echo",
    ordinal: int = 0,
    weight: int = 0,
    ahead: int = 0,
    max_attempts: int | None = None,
    **facts: Any,
) -> model.NewTask:
    """Return a task that tells the fake task process what to do."""
    return model.NewTask(
        TASK, pack(do=do, **facts), ordinal=ordinal, weight=weight, ahead=ahead, max_attempts=max_attempts
    )


class FakeJobHandler(model.JobHandler):
    """Writes the record; names the stages that the test put into `stages`."""

    def __init__(self) -> None:
        self.stages: list[Sequence[model.NewTask]] = []
        self.results: list[model.TaskResult] = []
        self.publishing: Callable[[], Awaitable[None]] | None = None

    async def started(self, conn: Any, job: model.Job) -> None:
        await self._write(conn, job, state="STARTED")

    async def next_stage(
        self, conn: Any, job: model.Job, stage: int, results: Sequence[model.TaskResult]
    ) -> Sequence[model.NewTask]:
        return self.stages[stage] if stage < len(self.stages) else []

    async def succeeded(self, conn: Any, job: model.Job, results: Sequence[model.TaskResult]) -> None:
        await self._write(conn, job, state="READY", published=RECORDS.c.published + 1)
        self.results = list(results)
        if self.publishing:
            await self.publishing()

    async def failed(self, conn: Any, job: model.Job, failure: Failure) -> None:
        await self._write(conn, job, state="ERROR", error=failure.message)

    async def cancelled(self, conn: Any, job: model.Job) -> None:
        await self._write(conn, job, state="CANCELLED")

    async def progressed(self, conn: Any, job: model.Job, percent: float) -> None:
        await self._write(conn, job, percent=percent)

    async def _write(self, conn: Any, job: model.Job, **values: Any) -> None:
        await conn.execute(RECORDS.update().where(RECORDS.c.resource == job.resource).values(values))


class JobStoreHarness:
    """A job store over a database of its own."""

    def __init__(self, database: Database, settings: JobSettings, handler: Any = None) -> None:
        self.database = database
        self.settings = settings
        self.handler = handler or FakeJobHandler()
        self.store = JobStore(TABLES, {KIND: self.handler}, settings, owner="testowner")

    async def create(self, *tasks: model.NewTask) -> uuid.UUID:
        """Make a record and its job, as a create RPC does."""
        resource = f"records/{uuid.uuid4().hex}"
        async with self.database.transaction() as conn:
            await conn.execute(RECORDS.insert().values(resource=resource, state="PENDING"))
            return await self.store.create(conn, KIND, resource, tasks or [task()])

    async def cancel(self, job_id: uuid.UUID) -> bool:
        async with self.database.transaction() as conn:
            return await self.store.cancel(conn, job_id)

    async def delete(self, job_id: uuid.UUID) -> None:
        async with self.database.transaction() as conn:
            await self.store.delete(conn, job_id)

    async def acquire(
        self, task_id: uuid.UUID, worker: str = "w", request_id: uuid.UUID | None = None
    ) -> model.Lease | None:
        async with self.database.transaction() as conn:
            return await self.store.acquire(conn, task_id, worker, request_id or uuid.uuid4())

    async def extend(self, task_id: uuid.UUID, epoch: int, *args: Any) -> None:
        async with self.database.transaction() as conn:
            await self.store.extend(conn, task_id, epoch, *args)

    async def complete(self, task_id: uuid.UUID, epoch: int, result: bytes = b"") -> None:
        async with self.database.transaction() as conn:
            await self.store.complete(conn, task_id, epoch, result or pack(done=True))

    async def fail(self, task_id: uuid.UUID, epoch: int, *, retryable: bool = True, message: str = "It broke.") -> bool:
        async with self.database.transaction() as conn:
            return await self.store.fail(conn, task_id, epoch, Failure("INTERNAL", message, retryable))

    async def release(self, task_id: uuid.UUID, epoch: int, resume_point: bytes = b"") -> None:
        async with self.database.transaction() as conn:
            await self.store.release(conn, task_id, epoch, resume_point)

    async def expire(self, task_id: uuid.UUID) -> bool:
        async with self.database.transaction() as conn:
            return await self.store.expire(conn, task_id)

    async def outdate(self, task_id: uuid.UUID) -> None:
        """Move the lease's end, and a backoff's, into the past."""
        past = sa.func.clock_timestamp() - sa.text("interval '1 hour'")
        changes = TABLES.tasks.update().where(TABLES.tasks.c.id == task_id)
        lease = sa.case((TABLES.tasks.c.lease_expires_at.is_not(None), past))
        async with self.database.transaction() as conn:
            await conn.execute(changes.values(lease_expires_at=lease, not_before=past))
            await conn.execute(TABLES.outbox.update().where(TABLES.outbox.c.task_id == task_id).values(due_at=past))

    async def job(self, job_id: uuid.UUID) -> model.Job:
        async with self.database.connection() as conn:
            job = await self.store.get(conn, job_id)
        assert job is not None
        return job

    async def attempts(self, job_id: uuid.UUID) -> list[model.Attempt]:
        async with self.database.connection() as conn:
            return await self.store.attempts(conn, job_id)

    async def record(self, job_id: uuid.UUID) -> sa.Row[Any]:
        """Return the record that the job makes."""
        resource = (await self.job(job_id)).resource
        async with self.database.connection() as conn:
            return (await conn.execute(sa.select(RECORDS).where(RECORDS.c.resource == resource))).one()

    async def tasks(self, job_id: uuid.UUID) -> list[sa.Row[Any]]:
        table = TABLES.tasks
        query = sa.select(table).where(table.c.job_id == job_id).order_by(table.c.stage, table.c.ordinal)
        return await self.rows(query)

    async def task_id(self, job_id: uuid.UUID) -> uuid.UUID:
        """Return the id of a job's only task."""
        (row,) = await self.tasks(job_id)
        return row.id

    async def rows(self, query: Any) -> list[sa.Row[Any]]:
        async with self.database.connection() as conn:
            return list((await conn.execute(query)).all())

    async def ended(self, job_id: uuid.UUID, seconds: float = PATIENCE_SECONDS) -> model.Job:
        """Wait until the job has ended."""

        async def final() -> model.Job | None:
            job = await self.job(job_id)
            return job if job.state != model.JobState.ACTIVE else None

        return await until(final, seconds)


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait for the condition to give something true, and return that."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):
            await asyncio.sleep(0.005)
        return value


@contextlib.asynccontextmanager
async def open_store_harness(
    database_settings: DatabaseSettings, settings: JobSettings
) -> AsyncIterator[JobStoreHarness]:
    """Open a job store over an empty database."""
    database = open_database(database_settings)
    try:
        async with database.transaction() as conn:
            await conn.run_sync(METADATA.create_all)
        yield JobStoreHarness(database, settings)
    finally:
        await database.close()


class JobServiceHarness:
    """A job store with its background tasks and its lease service."""

    def __init__(
        self, harness: JobStoreHarness, database_settings: DatabaseSettings, messaging_settings: MessagingSettings
    ) -> None:
        self.harness = harness
        self.messaging_settings = messaging_settings
        self.subjects = messaging.Subjects(messaging_settings.namespace)
        self._database_settings = database_settings
        self.client: Client
        self.background: JobBackgroundTasks
        self.stub: Any
        self.server: Server
        self.port = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[JobServiceHarness]:
        async with contextlib.AsyncExitStack() as stack:
            self.client = await messaging.connect(self.messaging_settings, "testowner")
            stack.push_async_callback(messaging.close, self.client)
            await messaging.ensure_stream(self.client, self.subjects)
            listener = Listener(self._database_settings)
            harness = self.harness
            self.background = JobBackgroundTasks(
                harness.database, harness.store, self.client, self.subjects, harness.settings, listener
            )
            running = [asyncio.create_task(each) for each in (listener.run(), *self.background.tasks().values())]
            stack.push_async_callback(tasks.end, *running)
            await self.serve()
            stack.push_async_callback(self._drain)
            channel = await stack.enter_async_context(channels.open_async_channel(f"127.0.0.1:{self.port}"))
            self.stub = leases_pb2_grpc.LeaseServiceStub(channel)
            yield self

    async def _drain(self) -> None:
        # The server of that moment: a test may have started another.
        await self.server.drain()

    async def serve(self) -> None:
        """Start the lease service, on the port that it had if it ran before."""
        self.server = Server(ServerSettings(port=self.port, drain_seconds=0), service="testowner")
        servicer = LeaseServicer(self.harness.database, self.harness.store)
        register = leases_pb2_grpc.add_LeaseServiceServicer_to_server
        self.server.add(register, servicer, "polytok.jobs.v1.LeaseService")
        self.port = await self.server.start()

    @contextlib.asynccontextmanager
    async def worker(self, stub: Any = None, **options: bool) -> AsyncIterator[tuple[Worker, StopSignal]]:
        """Run a worker in this process, with a warm task process, until the block ends."""
        client = await messaging.connect(self.messaging_settings, "worker")
        stop = StopSignal()
        worker = Worker(
            WorkerSettings(),
            self.harness.settings,
            client,
            self.subjects,
            "records",
            [TASK],
            {"testowner": stub or self.stub},
            [sys.executable, str(TASK_PROCESS_PROGRAM)],
            **options,
        )
        running = asyncio.create_task(worker.run(stop))
        try:
            await until(worker.ready)
            yield worker, stop
        finally:
            stop.set()
            await running
            await messaging.close(client)

    @contextlib.asynccontextmanager
    async def worker_process(self, owner: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
        """Yield a worker in a process of its own; with another address of the owner, if one is given."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(WORKER_PROGRAM),
            owner or f"127.0.0.1:{self.port}",
            env={
                **os.environ,
                "POLYTOK_NATS_URL": self.messaging_settings.url,
                "POLYTOK_NATS_NAMESPACE": self.messaging_settings.namespace,
                "POLYTOK_JOBS_LEASE_TTL_SECONDS": str(self.harness.settings.lease_ttl_seconds),
                "POLYTOK_JOBS_DISPATCH_ACK_SECONDS": str(self.harness.settings.dispatch_ack_seconds),
            },
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
