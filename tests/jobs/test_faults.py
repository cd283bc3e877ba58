# ruff: noqa: ASYNC240  small files, and tests wait for them anyway
"""What must not matter: deaths, outages, lost and doubled messages, garbage."""

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
import sqlalchemy as sa

from polytok.jobs.v1 import leases_pb2, messages_pb2
from services.embedded import nats as nats_servers
from services.embedded import ports
from services.jobs import metrics
from services.jobs.model import JobState, Outcome
from services.jobs.reconciler import Reconciler
from services.runtime import messaging
from services.runtime.settings import DatabaseSettings, MessagingSettings
from tests.jobs import toys
from tests.jobs.test_jobs_run import queue_is_empty, running
from tests.jobs.toys import TABLES, House, Shop, task, until
from tests.support import servers
from tests.support.processes import is_alive


async def test_a_child_killed_from_outside_costs_one_attempt(house: House, tmp_path: pathlib.Path) -> None:
    once = tmp_path / "once"
    async with house.worker() as (worker, _):
        job_id = await house.shop.create(task("work", seconds=60, once=str(once)))
        await until(lambda: exists(once))
        os.kill(worker.child_pid, signal.SIGKILL)
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED
    first, second = await house.shop.attempts(job_id)
    assert (first.outcome, first.error_reason, second.outcome) == (Outcome.FAILED, "WORKER_LOST", Outcome.SUCCEEDED)
    assert "SIGKILL" in (first.error_message or "")
    assert "memory" in (first.error_message or "")


async def test_task_that_kills_its_child_fails_only_its_job(house: House) -> None:
    async with house.worker():
        job_id = await house.shop.create(task("kill"))
        job = await house.shop.ended(job_id)
        assert (job.state, job.error_reason) == (JobState.FAILED, "WORKER_LOST")
        assert (await house.shop.ended(await house.shop.create())).state == JobState.SUCCEEDED
    assert len(await house.shop.attempts(job_id)) == 3


async def test_an_idle_child_that_dies_costs_nothing(house: House) -> None:
    async with house.worker() as (worker, _):
        os.kill(worker.child_pid, signal.SIGKILL)

        async def dead() -> bool:
            return not await worker.ready()

        await until(dead)
        job_id = await house.shop.create()
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED
    assert [a.outcome for a in await house.shop.attempts(job_id)] == [Outcome.SUCCEEDED]


async def test_task_of_killed_worker_is_taken_over(house: House, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pid"
    async with house.worker_process() as process:
        job_id = await house.shop.create(task("spawn", path=str(path), once=True))
        await until(lambda: written(path))
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        process.kill()
        await process.wait()
        await until(lambda: gone(*map(int, children)))
    os.kill(int(path.read_text()), signal.SIGKILL)
    await house.shop.outdate(await house.shop.task_id(job_id))
    await until(lambda: lost(house, job_id))
    path.unlink()
    async with house.worker():
        await until(lambda: written(path))
        os.kill(int(path.read_text()), signal.SIGTERM)
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED
    assert [a.outcome for a in await house.shop.attempts(job_id)] == [Outcome.LOST, Outcome.SUCCEEDED]


async def test_terminated_worker_releases_task(house: House) -> None:
    async with house.worker_process() as process:
        job_id = await house.shop.create(task("work", seconds=60))
        await until(lambda: running(house, job_id))
        process.terminate()
        assert await process.wait() == 0
    assert [a.outcome for a in await house.shop.attempts(job_id)] == [Outcome.RELEASED]
    assert (await house.shop.tasks(job_id))[0].attempts == 0


@pytest.mark.parametrize("job_settings", [{"lease_ttl_seconds": 4}], indirect=True)
async def test_a_worker_cut_off_from_the_owner_ends_its_child(house: House, tmp_path: pathlib.Path) -> None:
    once = tmp_path / "once"
    async with house.worker() as (worker, _):
        job_id = await house.shop.create(task("work", seconds=600, once=str(once)))
        await until(lambda: exists(once))
        pid = worker.child_pid
        await house.server.drain()
        await until(lambda: gone(pid))
        await house.serve()
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED
    assert [a.outcome for a in await house.shop.attempts(job_id)] == [Outcome.LOST, Outcome.SUCCEEDED]


@pytest.mark.parametrize("job_settings", [{"lease_ttl_seconds": 9}], indirect=True)
async def test_an_owner_that_restarts_costs_nothing(house: House) -> None:
    async with house.worker():
        job_id = await house.shop.create(task("work", seconds=2))
        await until(lambda: running(house, job_id))
        await house.server.drain()
        await asyncio.sleep(3.5)  # longer than the task takes, and than it is from one heartbeat to the next
        await house.serve()
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED
    assert [a.outcome for a in await house.shop.attempts(job_id)] == [Outcome.SUCCEEDED]


async def test_every_message_delivered_twice_changes_nothing(house: House) -> None:
    async with house.worker(), house.worker():
        job_id = await house.shop.create(*(task("work", ordinal=n, seconds=0.1) for n in range(6)))
        for row in await house.shop.tasks(job_id):
            for dispatch in (901, 902):
                await publish_task(house, row.id, dispatch)
                await asyncio.sleep(0.01)
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED
        await until(lambda: queue_is_empty(house))
    assert [a.outcome for a in await house.shop.attempts(job_id)] == [Outcome.SUCCEEDED] * 6
    assert (await house.shop.toy(job_id)).published == 1


async def test_garbage_on_the_queue_harms_nobody(house: House) -> None:
    before = metrics.garbage._value.get()
    task_id = str(uuid.uuid4())
    good = messages_pb2.TaskMessage(task_id=task_id, owner="toyshop", kind=toys.TASK, dispatch=1)
    bad_owner = messages_pb2.TaskMessage(task_id=task_id, owner="../etc", kind=toys.TASK, dispatch=1)
    elsewhere = str(uuid.uuid4())
    jetstream = house.client.jetstream()
    for subject, data in (
        (house.subjects.task(toys.TASK, uuid.uuid4()), b"\xff\xfe not protobuf"),
        (house.subjects.task(toys.TASK, uuid.uuid4()), b""),
        (house.subjects.task(toys.TASK, task_id), bad_owner.SerializeToString()),
        (house.subjects.task(toys.TASK, elsewhere), good.SerializeToString()),
        (house.subjects.task(toys.TASK, "no-uuid"), b"x" * 500_000),
    ):
        await jetstream.publish(subject, data)
    async with house.worker():
        job_id = await house.shop.create()
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED
        await until(lambda: queue_is_empty(house))
    assert metrics.garbage._value.get() - before == 5


@pytest.mark.parametrize("job_settings", [{"reconcile_seconds": 60}], indirect=True)
async def test_garbage_that_hides_task_is_detected(house: House) -> None:
    job_id = await house.shop.create()
    task_id = await house.shop.task_id(job_id)
    await until(lambda: is_dispatched(house))
    # The queue keeps one message for each subject: this one pushes the task's own out.
    await house.client.jetstream().publish(house.subjects.task(toys.TASK, task_id), b"garbage")
    async with house.worker():
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED


async def test_a_message_for_a_task_that_is_gone_is_dropped(house: House) -> None:
    await publish_task(house, uuid.uuid4(), 1)
    async with house.worker():
        await until(lambda: queue_is_empty(house))


async def test_lost_message_is_resent(house: House) -> None:
    job_id = await house.shop.create(*(task(ordinal=n) for n in range(3)))
    await until(lambda: is_dispatched(house))
    await house.client.jsm().purge_stream(house.subjects.stream)
    async with house.worker():
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED


QUIET = pytest.mark.parametrize("job_settings", [{"reconcile_seconds": 3600}], indirect=True)


@QUIET
async def test_pending_messages_are_not_resent(house: House) -> None:
    job_id = await house.shop.create(*(task(ordinal=n) for n in range(30)))
    await until(lambda: is_dispatched(house))
    for _ in range(3):
        await reconcile(house)
    assert {row.dispatch for row in await house.shop.tasks(job_id)} == {1}


@pytest.mark.parametrize("what", ["stream", "consumer"])
async def test_a_deleted_queue_is_made_again(house: House, what: str) -> None:
    async with house.worker():
        jsm = house.client.jsm()
        if what == "stream":
            await jsm.delete_stream(house.subjects.stream)
        else:
            await jsm.delete_consumer(house.subjects.stream, messaging.consumer_name("toys"))
        job_id = await house.shop.create()
        assert (await house.shop.ended(job_id)).state == JobState.SUCCEEDED


async def test_calls_with_old_epoch_are_aborted(house: House) -> None:
    """Calls with an old epoch, as gRPC answers them."""
    job_id = await house.shop.create()
    task_id = await house.shop.task_id(job_id)
    assert await house.shop.acquire(task_id, "first")
    await house.shop.outdate(task_id)
    assert await house.shop.acquire(task_id, "second")
    name = str(task_id)
    error = leases_pb2.TaskError(reason="INTERNAL", message="x")
    for call, request in (
        (house.stub.ExtendLease, leases_pb2.ExtendLeaseRequest(task_id=name, epoch=1)),
        (house.stub.CompleteTask, leases_pb2.CompleteTaskRequest(task_id=name, epoch=1, result={})),
        (house.stub.FailTask, leases_pb2.FailTaskRequest(task_id=name, epoch=1, error=error)),
        (house.stub.ReleaseLease, leases_pb2.ReleaseLeaseRequest(task_id=name, epoch=1)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
        assert caught.value.code() == grpc.StatusCode.ABORTED
    (row,) = await house.shop.tasks(job_id)
    assert (row.state, row.epoch, row.worker) == ("RUNNING", 2, "second")


class OwnNats:
    """A NATS server that the test stops, wipes and starts."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.server = nats_servers.Nats(folder, port=ports.free_port(), password=servers.PASSWORD)
        self.server.prepare()
        self.running = contextlib.ExitStack()

    async def start(self) -> None:
        await asyncio.to_thread(self.running.enter_context, servers.started(self.server))

    async def stop(self) -> None:
        await asyncio.to_thread(self.running.close)

    def wipe(self) -> None:
        shutil.rmtree(self.server.folder / "jetstream")
        self.server.prepare()


@pytest.fixture
async def own_nats() -> AsyncIterator[OwnNats]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="polytok-test-"))
    folder.chmod(0o711)
    own = OwnNats(folder / "nats")
    await own.start()
    yield own
    await own.stop()
    shutil.rmtree(folder)


@pytest.fixture
async def own_house(own_nats: OwnNats, shop: Shop, database_settings: DatabaseSettings) -> AsyncIterator[House]:
    async with toys.House(shop, database_settings, MessagingSettings(url=own_nats.server.url)).open() as house:
        yield house


async def test_job_created_without_nats_runs_later(own_house: House, own_nats: OwnNats) -> None:
    async with own_house.worker():
        await own_nats.stop()
        jobs = [await own_house.shop.create() for _ in range(3)]
        assert await own_house.shop.cancel(jobs.pop())
        await own_nats.start()
        for job_id in jobs:
            assert (await own_house.shop.ended(job_id)).state == JobState.SUCCEEDED
    assert await own_house.shop.rows(sa.select(TABLES.outbox)) == []


async def test_tasks_of_a_wiped_nats_run(own_house: House, own_nats: OwnNats) -> None:
    job_id = await own_house.shop.create(*(task(ordinal=n) for n in range(5)))
    await until(lambda: is_dispatched(own_house))
    async with own_house.worker():
        await own_nats.stop()
        waiting = await own_house.shop.create(*(task(ordinal=n) for n in range(5)))
        own_nats.wipe()
        await own_nats.start()
        for each in (job_id, waiting):
            assert (await own_house.shop.ended(each)).state == JobState.SUCCEEDED


async def test_a_running_task_does_not_need_nats(own_house: House, own_nats: OwnNats) -> None:
    async with own_house.worker():
        job_id = await own_house.shop.create(task("work", seconds=1))
        await until(lambda: running(own_house, job_id))
        await own_nats.stop()
        assert (await own_house.shop.ended(job_id)).state == JobState.SUCCEEDED
        own_nats.wipe()
        await own_nats.start()
        assert (await own_house.shop.ended(await own_house.shop.create())).state == JobState.SUCCEEDED
    assert [a.outcome for a in await own_house.shop.attempts(job_id)] == [Outcome.SUCCEEDED]


@pytest.mark.long
@QUIET
async def test_long_queue_is_listed_completely(house: House) -> None:
    """The list of what waits comes in pages; none may be missed, or each round would dispatch it again."""
    job_id = await house.shop.create(*(task(ordinal=n) for n in range(20_000)))
    await until(lambda: is_dispatched(house), 120)
    started = time.monotonic()
    await reconcile(house)
    print(f"a round over 20,000 waiting tasks: {time.monotonic() - started:.3f} s")
    assert await house.shop.rows(sa.select(TABLES.tasks.c.id).where(TABLES.tasks.c.dispatch > 1)) == []
    (some,) = await house.shop.rows(sa.select(TABLES.tasks.c.id).limit(1).offset(12_345))
    await house.client.jsm().purge_stream(house.subjects.stream, subject=house.subjects.task(toys.TASK, some.id))
    await reconcile(house)
    again = await house.shop.rows(sa.select(TABLES.tasks.c.id).where(TABLES.tasks.c.dispatch > 1))
    assert [row.id for row in again] == [some.id]
    await house.shop.cancel(job_id)


async def reconcile(house: House) -> None:
    """One whole round."""
    shop = house.shop
    await Reconciler(shop.database, shop.store, house.client, house.subjects, shop.settings).reconcile()


async def publish_task(house: House, task_id: uuid.UUID, dispatch: int) -> None:
    message = messages_pb2.TaskMessage(task_id=str(task_id), owner="toyshop", kind=toys.TASK, dispatch=dispatch)
    subject = house.subjects.task(toys.TASK, task_id)
    await house.client.jetstream().publish(subject, message.SerializeToString())


async def is_dispatched(house: House) -> bool:
    return await house.shop.rows(sa.select(TABLES.outbox).limit(1)) == []


async def lost(house: House, job_id: uuid.UUID) -> bool:
    return [a.outcome for a in await house.shop.attempts(job_id)] == [Outcome.LOST]


async def exists(path: pathlib.Path) -> bool:
    return path.exists()


async def written(path: pathlib.Path) -> bool:
    return path.exists() and path.read_text() != ""


async def gone(*pids: int) -> bool:
    return not any(is_alive(pid) for pid in pids)
