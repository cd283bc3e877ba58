"""A running extractor beside a catalog, and the tasks that a fake worker leases."""

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator
from typing import Any, TypeVar, cast

import grpc.aio
import sqlalchemy as sa
from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok import channels, errors
from polytok.extractor.v1 import extractions_pb2, extractions_pb2_grpc, tasks_pb2
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.extractor.server import tables
from services.extractor.server.app import ExtractorApp
from services.extractor.server.settings import ExtractorSettings
from services.jobs import failures
from services.runtime import settings
from services.runtime.storage import Storage
from tests.catalog import harness as catalog_harness
from tests.support import serving

M = TypeVar("M", bound=Message)

HOOK = "blocks.1.hook_resid_post"
READY = extractions_pb2.Extraction.STATE_READY
CANCELLED = extractions_pb2.Extraction.STATE_CANCELLED


@dataclasses.dataclass
class ExtractorHarness:
    """An extractor that serves."""

    extractor: ExtractorApp
    catalog: catalog_harness.CatalogHarness
    storage: Storage
    channel: grpc.aio.Channel
    address: str

    def __post_init__(self) -> None:
        self.stub = cast("Any", extractions_pb2_grpc.ExtractionServiceStub(self.channel))
        self.leases = cast("Any", leases_pb2_grpc.LeaseServiceStub(self.channel))

    async def create(self, name: str = "", request_id: str = "", **parameters: Any) -> extractions_pb2.Extraction:
        """Start an extraction of one hook, or of what is given."""
        of = {field: parameters.pop(field, value) for field, value in (("dataset", "docs"), ("model", "gpt2"))}
        parameters.setdefault("hooks", [HOOK])
        parameters.setdefault("context_size", 8)
        request = extractions_pb2.CreateExtractionRequest(
            extraction_id=name,
            dataset=f"datasets/{of['dataset']}",
            model=f"models/{of['model']}",
            variant=parameters.pop("variant", ""),
            parameters=extractions_pb2.ExtractionParameters(**parameters),
            request_id=request_id,
        )
        return await self.stub.CreateExtraction(request)

    async def get(self, name: str) -> extractions_pb2.Extraction:
        """Read an extraction."""
        return await self.stub.GetExtraction(extractions_pb2.GetExtractionRequest(name=name))

    async def cancel(self, name: str) -> extractions_pb2.Extraction:
        """Stop an extraction."""
        return await self.stub.CancelExtraction(extractions_pb2.CancelExtractionRequest(name=name))

    async def retry(self, name: str) -> extractions_pb2.Extraction:
        """Extract again."""
        return await self.stub.RetryExtraction(extractions_pb2.RetryExtractionRequest(name=name))

    async def delete(self, name: str, **fields: Any) -> None:
        """Delete an extraction."""
        await self.stub.DeleteExtraction(extractions_pb2.DeleteExtractionRequest(name=name, **fields))

    async def holders(self) -> list[str]:
        """Who holds a tokenization in the catalog."""
        from services.catalog.server import tables as catalog_tables

        statement = sa.select(catalog_tables.tokenization_holds.c.holder)
        async with self.catalog.database.connection() as conn:
            return list((await conn.execute(statement)).scalars())

    async def readers(self) -> list[str]:
        """Who holds an extraction."""
        statement = sa.select(tables.extraction_holds.c.holder)
        async with self.extractor.database.connection() as conn:
            return list((await conn.execute(statement)).scalars())

    async def take(self, job: str) -> "LeasedTask":
        """Lease the next task of a job."""
        tasks = tables.jobs.tasks
        statement = (
            sa.select(tasks.c.id)
            .where(tasks.c.job_id == uuid.UUID(job), tasks.c.state == "READY")
            .order_by(tasks.c.stage, tasks.c.ordinal)
            .limit(1)
        )
        async with self.extractor.database.connection() as conn:
            task_id = (await conn.execute(statement)).scalar_one()
        lease = await self.leases.AcquireLease(
            leases_pb2.AcquireLeaseRequest(task_id=str(task_id), worker="fake-worker", request_id=str(uuid.uuid4()))
        )
        return LeasedTask(self, str(task_id), lease)

    async def finish(self, extraction: extractions_pb2.Extraction) -> extractions_pb2.Extraction:
        """Make an extraction of two ranges READY."""
        plan = await self.take(extraction.job)
        await plan.complete(plan.plan())
        for _ in range(2):
            each = await self.take(extraction.job)
            await each.complete(each.range())
        publishing = await self.take(extraction.job)
        await publishing.complete(publishing.publication())
        return await self.get(extraction.name)


class LeasedTask:
    """A task under a lease."""

    def __init__(self, running: ExtractorHarness, task_id: str, lease: leases_pb2.AcquireLeaseResponse) -> None:
        self._running = running
        self.task_id = task_id
        self.lease = lease
        self._tag = f"{task_id.replace('-', '')[:12]}-e{lease.epoch}"

    def payload(self, expected: type[M]) -> M:
        """Return what is to be done."""
        message = expected()
        assert self.lease.payload.Unpack(message)
        return message

    def plan(self) -> tasks_pb2.PlanExtractionResult:
        """Return the result of a plan: two ranges."""
        ranges = [tasks_pb2.RowRange(first_row=first, num_rows=2, num_tokens=20) for first in (0, 2)]
        return tasks_pb2.PlanExtractionResult(ranges=ranges, size_bytes=100)

    def range(self) -> tasks_pb2.ExtractRangeResult:
        """Return the result of a range, its files written."""
        task = self.payload(tasks_pb2.ExtractRangeTask)
        key = f"{task.order.extraction_key}/activations-{task.ordinal}-{self._tag}"
        storage = self._running.storage
        file = tasks_pb2.ActivationFile(
            key=f"{key}.arrow", num_rows=2, size_bytes=7, sha256=storage.write_bytes(f"{key}.arrow", b"numbers")
        )
        statistics = tasks_pb2.StatisticsFile(
            key=f"{key}.statistics", sha256=storage.write_bytes(f"{key}.statistics", b"")
        )
        return tasks_pb2.ExtractRangeResult(files=[file], statistics=statistics, num_tokens=16, num_sequences=2)

    def publication(self) -> tasks_pb2.PublishExtractionResult:
        """Return the result of the last task, its files staged."""
        task = self.payload(tasks_pb2.PublishExtractionTask)
        folder = task.order.extraction_key
        staged = []
        for name in ("state.json", "dataset_info.json", "polytok.json", "statistics.safetensors", "blocks.safetensors"):
            key = f"{folder}/{name}.{self._tag}"
            digest = self._running.storage.write_bytes(key, name.encode())
            staged.append({"staged_key": key, "final_key": f"{folder}/{name}", "sha256": digest})
        return tasks_pb2.PublishExtractionResult(
            statistics=extractions_pb2.ExtractionStatistics(
                num_tokens=32, num_sequences=4, num_files=2, num_rows=4, hooks=[{"hook": HOOK, "width": 8}]
            ),
            manifest_digest="e" * 64,
            staged_files=staged,
        )

    async def complete(self, result: Message) -> None:
        """End the task well."""
        packed = any_pb2.Any()
        packed.Pack(result)
        request = leases_pb2.CompleteTaskRequest(task_id=self.task_id, epoch=self.lease.epoch, result=packed)
        await self._running.leases.CompleteTask(request)

    async def fail(self, reason: str, message: str) -> None:
        """End the job badly."""
        await self.fail_as(errors.Internal(message, reason=reason, retryable=False))

    async def fail_as(self, error: errors.PolytokError) -> None:
        """End the attempt with an error, as a worker tells it."""
        await self._running.leases.FailTask(
            leases_pb2.FailTaskRequest(
                task_id=self.task_id, epoch=self.lease.epoch, error=failures.to_task_error(error)
            )
        )


@contextlib.asynccontextmanager
async def run_extractor(
    catalog: catalog_harness.CatalogHarness,
    database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: Storage,
) -> AsyncIterator[ExtractorHarness]:
    """Run an extractor."""
    extractor = ExtractorApp(
        database=database_settings,
        messages=messaging_settings,
        storage=storage,
        server=settings.ServerSettings(port=0, drain_seconds=0),
        jobs=settings.JobSettings(backoff_seconds=0, max_attempts=2),
        settings=ExtractorSettings(garbage_grace_seconds=0, estimate_seconds=120, hooks_seconds=50),
        catalog=channels.open_async_channel(catalog.address),
    )
    async with serving.serving(extractor) as (channel, address):
        yield ExtractorHarness(extractor, catalog, storage, channel, address)


async def until(condition: Any, what: str) -> None:
    """Wait until an asynchronous condition holds."""
    try:
        async with asyncio.timeout(60):
            while not await condition():  # noqa: ASYNC110  what holds is in a database
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not in 60 s: {what}") from None


expect_error = catalog_harness.expect_error
__all__ = [
    "CANCELLED",
    "HOOK",
    "READY",
    "ExtractorHarness",
    "LeasedTask",
    "errors",
    "expect_error",
    "run_extractor",
    "until",
]
