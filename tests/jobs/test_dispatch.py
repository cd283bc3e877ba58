"""A message on the queue stays with a worker that gives signs of life, and with no other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import nats.js.errors
import pytest
from nats.aio.msg import Msg

from services.jobs.model import JobState, Outcome
from services.runtime import messaging
from tests.jobs.job_harness import JobServiceHarness, task, until
from tests.jobs.test_jobs_run import queue_is_empty, running


@pytest.mark.parametrize("job_settings", [{"dispatch_ack_seconds": 1, "reconcile_seconds": 3600}], indirect=True)
async def test_worker_killed_before_lease_does_not_keep_task(service: JobServiceHarness) -> None:
    """It leaves no trace in Postgres. The queue notices, as soon as it is triggered; no attempt is lost."""
    async with deaf_owner() as address, service.worker_process(address) as process:
        job_id = await service.harness.create(*(task(ordinal=n) for n in range(2)))
        await until(lambda: taken(service, 1))
        process.kill()
        await process.wait()
    async with service.worker():
        name = messaging.consumer_name("records")
        assert (await service.client.jsm().consumer_info(service.subjects.stream, name)).config.ack_wait == 1
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
        await until(lambda: queue_is_empty(service))
    assert [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.SUCCEEDED] * 2
    assert {row.dispatch for row in await service.harness.tasks(job_id)} == {1}, "nobody rang again"


@pytest.mark.parametrize("job_settings", [{"dispatch_ack_seconds": 0.5}], indirect=True)
async def test_slow_worker_sends_in_progress(service: JobServiceHarness) -> None:
    """It waits for an owner that does not answer, and then works: its message is not delivered again meanwhile."""
    signs = 0

    async def hear(message: Msg) -> None:
        nonlocal signs
        signs += message.data == Msg.Ack.Progress

    async def came(count: int) -> bool:
        return signs >= count

    await service.client.subscribe(f"$JS.ACK.{service.subjects.stream}.>", cb=hear)
    await service.client.flush()
    slow = SlowOwner(service.stub)
    async with service.worker(slow):
        job_id = await service.harness.create(task("work", seconds=600))
        await asyncio.wait_for(slow.asked.wait(), 60)
        await until(lambda: came(4))
        slow.answers.set()
        await until(lambda: running(service, job_id))
        before = signs
        await until(lambda: came(before + 4))
        assert await service.harness.cancel(job_id)
        await until(lambda: queue_is_empty(service))
    assert [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.CANCELLED]


class SlowOwner:
    """A lease service that does not answer before it is let."""

    def __init__(self, stub: Any) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stub, name)

    async def AcquireLease(self, request: Any, timeout: float) -> Any:  # noqa: ASYNC109, N802
        self.asked.set()
        await self.answers.wait()
        return await self._stub.AcquireLease(request, timeout=timeout)


@contextlib.asynccontextmanager
async def deaf_owner() -> AsyncIterator[str]:
    """Yield the address of a server that takes connections, and says nothing."""
    writers: list[asyncio.StreamWriter] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(take, "127.0.0.1")
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for writer in writers:
            writer.close()
        server.close()
        await server.wait_closed()


async def taken(service: JobServiceHarness, count: int) -> bool:
    """Return whether workers have so many messages in hand."""
    with contextlib.suppress(nats.js.errors.NotFoundError):
        name = messaging.consumer_name("records")
        info = await service.client.jsm().consumer_info(service.subjects.stream, name)
        return bool(info.num_ack_pending == count)
    return False
