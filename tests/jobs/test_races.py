"""Workers, users and the reconciler at once, over the real dispatcher: whatever order the database takes them in."""

import asyncio
import collections
import contextlib
import random
import uuid

import pytest
import sqlalchemy as sa

from polytok import errors
from services.jobs.model import JobState
from tests.jobs.job_harness import TABLES, JobServiceHarness, JobStoreHarness, task, until

JOBS, WORKERS, ROUNDS = 10, 6, 25


class Crowd:
    """What the crowd did, as far as it was acknowledged."""

    def __init__(self, harness: JobStoreHarness, seed: int) -> None:
        self.harness = harness
        self.random = random.Random(seed)
        self.ids: list[uuid.UUID] = []
        self.deleted: set[uuid.UUID] = set()
        self.cancelled: set[uuid.UUID] = set()
        self.completed: collections.defaultdict[uuid.UUID, set[int]] = collections.defaultdict(set)

    async def some_task(self) -> uuid.UUID | None:
        rows = await self.harness.rows(sa.select(TABLES.tasks.c.id))
        return self.random.choice(rows).id if rows else None

    async def work(self, name: str) -> None:
        for _ in range(ROUNDS):
            task_id = await self.some_task()
            if task_id is None:
                continue
            # Deleted meanwhile, or fenced. Anything else, a deadlock say, is a failure.
            with contextlib.suppress(errors.NotFound, errors.Aborted):
                lease = await self.harness.acquire(task_id, name)
                if lease is not None:
                    await self.finish(task_id, lease.epoch)

    async def finish(self, task_id: uuid.UUID, epoch: int) -> None:
        await self.harness.extend(task_id, epoch, (self.random.randrange(100), 100))
        match self.random.randrange(8):
            case 0:
                await self.harness.fail(task_id, epoch, retryable=self.random.random() < 0.8)
            case 1:
                await self.harness.release(task_id, epoch)
            case 2:
                pass  # dies
            case 3:
                await self.harness.outdate(task_id)
                await self.complete(task_id, epoch)
            case _:
                await asyncio.gather(self.complete(task_id, epoch), self.complete(task_id, epoch))

    async def complete(self, task_id: uuid.UUID, epoch: int) -> None:
        await self.harness.complete(task_id, epoch)
        self.completed[task_id].add(epoch)

    async def outdate(self) -> None:
        for _ in range(ROUNDS):
            task_id = await self.some_task()
            if task_id is not None:
                await self.harness.outdate(task_id)
                await self.harness.expire(task_id)

    async def use(self) -> None:
        for _ in range(ROUNDS // 8):
            job_id = self.random.choice(self.ids)
            if self.random.random() < 0.7:
                if await self.harness.cancel(job_id):
                    self.cancelled.add(job_id)
            else:
                self.deleted.add(job_id)
                await self.harness.delete(job_id)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("job_settings", [{"backoff_seconds": 0, "max_attempts": 20}], indirect=True)
async def test_at_once(service: JobServiceHarness, seed: int) -> None:
    harness = service.harness
    harness.handler.stages = [[task(ordinal=n) for n in range(3)]]
    crowd = Crowd(harness, seed)
    crowd.ids = [await harness.create(*(task(ordinal=n) for n in range(3))) for _ in range(JOBS)]
    # A deadlock would show here: the database picks a victim, whose call fails.
    await asyncio.gather(*(crowd.work(f"w{n}") for n in range(WORKERS)), crowd.outdate(), crowd.use())

    async with service.worker():
        for row in await harness.rows(sa.select(TABLES.tasks.c.id).where(TABLES.tasks.c.state == "RUNNING")):
            await harness.outdate(row.id)
        for job_id in set(crowd.ids) - crowd.deleted:
            job, record = await harness.ended(job_id), await harness.record(job_id)
            assert (job.state == JobState.CANCELLED) == (job_id in crowd.cancelled)
            ends = {"SUCCEEDED": "READY", "FAILED": "ERROR", "CANCELLED": "CANCELLED"}
            assert (record.state, record.published) == (ends[job.state], int(job.state == JobState.SUCCEEDED))
    for task_id, epochs in crowd.completed.items():
        assert len(epochs) == 1, f"task {task_id} was completed under several epochs"
    assert {row.id for row in await harness.rows(sa.select(TABLES.jobs.c.id))} == set(crowd.ids) - crowd.deleted

    async def swept() -> bool:
        return await harness.rows(sa.select(TABLES.outbox)) == []

    await until(swept)
    leftover = sa.select(TABLES.tasks).where(TABLES.tasks.c.lease_expires_at.is_not(None))
    assert await harness.rows(leftover) == []
