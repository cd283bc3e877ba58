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
from services.jobs import metrics, overdue_poller
from services.jobs.model import JobState, Outcome
from services.jobs.reconciler import Reconciler
from services.runtime import messaging
from services.runtime.settings import DatabaseSettings, MessagingSettings
from tests.jobs import job_harness
from tests.jobs.job_harness import TABLES, JobServiceHarness, JobStoreHarness, task, until
from tests.jobs.test_jobs_run import is_dispatched, queue_is_empty, running
from tests.support import servers
from tests.support.processes import is_alive


async def test_a_child_killed_from_outside_costs_one_attempt(
    service: JobServiceHarness, tmp_path: pathlib.Path
) -> None:
    once = tmp_path / "once"
    async with service.worker() as (worker, _):
        job_id = await service.harness.create(task("work", seconds=60, once=str(once)))
        await until(lambda: exists(once))
        os.kill(worker.child_pid, signal.SIGKILL)
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    first, second = await service.harness.attempts(job_id)
    assert (first.outcome, first.error_reason, second.outcome) == (Outcome.FAILED, "WORKER_LOST", Outcome.SUCCEEDED)
    assert "SIGKILL" in (first.error_message or "")
    assert "memory" in (first.error_message or "")


async def test_task_that_kills_its_child_fails_only_its_job(service: JobServiceHarness) -> None:
    async with service.worker():
        job_id = await service.harness.create(task("kill"))
        job = await service.harness.ended(job_id)
        assert (job.state, job.error_reason) == (JobState.FAILED, "WORKER_LOST")
        assert (await service.harness.ended(await service.harness.create())).state == JobState.SUCCEEDED
    assert len(await service.harness.attempts(job_id)) == 3


async def test_an_idle_child_that_dies_costs_nothing(service: JobServiceHarness) -> None:
    async with service.worker() as (worker, _):
        os.kill(worker.child_pid, signal.SIGKILL)

        async def dead() -> bool:
            return not await worker.ready()

        await until(dead)
        job_id = await service.harness.create()
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    assert [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.SUCCEEDED]


async def test_task_of_killed_worker_is_taken_over(service: JobServiceHarness, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pid"
    async with service.worker_process() as process:
        job_id = await service.harness.create(task("spawn", path=str(path), once=True))
        await until(lambda: written(path))
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        process.kill()
        await process.wait()
        await until(lambda: gone(*map(int, children)))
    os.kill(int(path.read_text()), signal.SIGKILL)
    await service.harness.outdate(await service.harness.task_id(job_id))
    await until(lambda: lost(service, job_id))
    path.unlink()
    async with service.worker():
        await until(lambda: written(path))
        os.kill(int(path.read_text()), signal.SIGTERM)
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    assert [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.LOST, Outcome.SUCCEEDED]


async def test_a_worker_is_ready_while_its_first_task_is_overdue(
    service: JobServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that no message announces is found with its owner, before the queue has answered."""
    monkeypatch.setattr(overdue_poller, "_AWAY_SECONDS", 0.0)
    job_id = await service.harness.create(task("work", seconds=600))
    await until(lambda: is_dispatched(service))
    await service.client.jsm().purge_stream(service.subjects.stream)
    async with service.worker() as (worker, _):
        await until(lambda: running(service, job_id))
        await until(worker.ready)
        await service.harness.cancel(job_id)


async def test_terminated_worker_releases_task(service: JobServiceHarness) -> None:
    async with service.worker_process() as process:
        job_id = await service.harness.create(task("work", seconds=60))
        await until(lambda: running(service, job_id))
        process.terminate()
        assert await process.wait() == 0
    assert [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.RELEASED]
    assert (await service.harness.tasks(job_id))[0].attempts == 0


@pytest.mark.parametrize("job_settings", [{"lease_ttl_seconds": 4}], indirect=True)
async def test_a_worker_cut_off_from_the_owner_ends_its_child(
    service: JobServiceHarness, tmp_path: pathlib.Path
) -> None:
    once = tmp_path / "once"
    async with service.worker() as (worker, _):
        job_id = await service.harness.create(task("work", seconds=600, once=str(once)))
        await until(lambda: exists(once))
        pid = worker.child_pid
        await service.server.drain()
        await until(lambda: gone(pid))
        await service.serve()
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    assert [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.LOST, Outcome.SUCCEEDED]


@pytest.mark.parametrize("job_settings", [{"lease_ttl_seconds": 9}], indirect=True)
async def test_an_owner_that_restarts_costs_nothing(service: JobServiceHarness) -> None:
    async with service.worker():
        job_id = await service.harness.create(task("work", seconds=2))
        await until(lambda: running(service, job_id))
        await service.server.drain()
        await asyncio.sleep(3.5)  # longer than the task takes, and than it is from one heartbeat to the next
        await service.serve()
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    assert [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.SUCCEEDED]


async def test_every_message_delivered_twice_changes_nothing(service: JobServiceHarness) -> None:
    async with service.worker(), service.worker():
        job_id = await service.harness.create(*(task("work", ordinal=n, seconds=0.1) for n in range(6)))
        for row in await service.harness.tasks(job_id):
            for dispatch in (901, 902):
                await publish_task(service, row.id, dispatch)
                await asyncio.sleep(0.01)
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
        await until(lambda: queue_is_empty(service))
    assert [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.SUCCEEDED] * 6
    assert (await service.harness.record(job_id)).published == 1


async def test_garbage_on_the_queue_is_dropped(service: JobServiceHarness) -> None:
    before = metrics.garbage._value.get()
    task_id = str(uuid.uuid4())
    good = messages_pb2.TaskMessage(task_id=task_id, owner="testowner", kind=job_harness.TASK, dispatch=1)
    bad_owner = messages_pb2.TaskMessage(task_id=task_id, owner="../etc", kind=job_harness.TASK, dispatch=1)
    elsewhere = str(uuid.uuid4())
    jetstream = service.client.jetstream()
    for subject, data in (
        (service.subjects.task(job_harness.TASK, uuid.uuid4()), b"\xff\xfe not protobuf"),
        (service.subjects.task(job_harness.TASK, uuid.uuid4()), b""),
        (service.subjects.task(job_harness.TASK, task_id), bad_owner.SerializeToString()),
        (service.subjects.task(job_harness.TASK, elsewhere), good.SerializeToString()),
        (service.subjects.task(job_harness.TASK, "no-uuid"), b"x" * 500_000),
    ):
        await jetstream.publish(subject, data)
    async with service.worker():
        job_id = await service.harness.create()
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
        await until(lambda: queue_is_empty(service))
    assert metrics.garbage._value.get() - before == 5


@pytest.mark.parametrize("job_settings", [{"reconcile_seconds": 60}], indirect=True)
async def test_garbage_that_hides_task_is_detected(service: JobServiceHarness) -> None:
    job_id = await service.harness.create()
    task_id = await service.harness.task_id(job_id)
    await until(lambda: is_dispatched(service))
    # The queue keeps one message for each subject: this one pushes the task's own out.
    await service.client.jetstream().publish(service.subjects.task(job_harness.TASK, task_id), b"garbage")
    async with service.worker():
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED


async def test_a_message_for_a_task_that_is_gone_is_dropped(service: JobServiceHarness) -> None:
    await publish_task(service, uuid.uuid4(), 1)
    async with service.worker():
        await until(lambda: queue_is_empty(service))


async def test_lost_message_is_resent(service: JobServiceHarness) -> None:
    job_id = await service.harness.create(*(task(ordinal=n) for n in range(3)))
    await until(lambda: is_dispatched(service))
    await service.client.jsm().purge_stream(service.subjects.stream)
    async with service.worker():
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED


QUIET = pytest.mark.parametrize("job_settings", [{"reconcile_seconds": 3600}], indirect=True)


@QUIET
async def test_pending_messages_are_not_resent(service: JobServiceHarness) -> None:
    job_id = await service.harness.create(*(task(ordinal=n) for n in range(30)))
    await until(lambda: is_dispatched(service))
    for _ in range(3):
        await reconcile(service)
    assert {row.dispatch for row in await service.harness.tasks(job_id)} == {1}


@pytest.mark.parametrize("what", ["stream", "consumer"])
async def test_a_deleted_queue_is_made_again(service: JobServiceHarness, what: str) -> None:
    async with service.worker():
        jsm = service.client.jsm()
        if what == "stream":
            await jsm.delete_stream(service.subjects.stream)
        else:
            await jsm.delete_consumer(service.subjects.stream, messaging.consumer_name("records"))
        job_id = await service.harness.create()
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED


async def test_calls_with_old_epoch_are_aborted(service: JobServiceHarness) -> None:
    """Call with an old epoch, as gRPC answers them."""
    job_id = await service.harness.create()
    task_id = await service.harness.task_id(job_id)
    assert await service.harness.acquire(task_id, "first")
    await service.harness.outdate(task_id)
    assert await service.harness.acquire(task_id, "second")
    name = str(task_id)
    error = leases_pb2.TaskError(reason="INTERNAL", message="x")
    for call, request in (
        (service.stub.ExtendLease, leases_pb2.ExtendLeaseRequest(task_id=name, epoch=1)),
        (service.stub.CompleteTask, leases_pb2.CompleteTaskRequest(task_id=name, epoch=1, result={})),
        (service.stub.FailTask, leases_pb2.FailTaskRequest(task_id=name, epoch=1, error=error)),
        (service.stub.ReleaseLease, leases_pb2.ReleaseLeaseRequest(task_id=name, epoch=1)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
        assert caught.value.code() == grpc.StatusCode.ABORTED
    (row,) = await service.harness.tasks(job_id)
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
async def own_service(
    own_nats: OwnNats, harness: JobStoreHarness, database_settings: DatabaseSettings
) -> AsyncIterator[JobServiceHarness]:
    async with job_harness.JobServiceHarness(
        harness, database_settings, MessagingSettings(url=own_nats.server.url)
    ).open() as service:
        yield service


async def test_job_created_without_nats_runs_later(own_service: JobServiceHarness, own_nats: OwnNats) -> None:
    async with own_service.worker():
        await own_nats.stop()
        jobs = [await own_service.harness.create() for _ in range(3)]
        assert await own_service.harness.cancel(jobs.pop())
        await own_nats.start()
        for job_id in jobs:
            assert (await own_service.harness.ended(job_id)).state == JobState.SUCCEEDED
    # The worker may have asked for overdue tasks before the dispatcher was connected again.
    await until(lambda: is_dispatched(own_service))


async def test_tasks_of_a_wiped_nats_run(own_service: JobServiceHarness, own_nats: OwnNats) -> None:
    job_id = await own_service.harness.create(*(task(ordinal=n) for n in range(5)))
    await until(lambda: is_dispatched(own_service))
    async with own_service.worker():
        await own_nats.stop()
        waiting = await own_service.harness.create(*(task(ordinal=n) for n in range(5)))
        own_nats.wipe()
        await own_nats.start()
        for each in (job_id, waiting):
            assert (await own_service.harness.ended(each)).state == JobState.SUCCEEDED


async def test_a_running_task_does_not_need_nats(own_service: JobServiceHarness, own_nats: OwnNats) -> None:
    async with own_service.worker():
        job_id = await own_service.harness.create(task("work", seconds=1))
        await until(lambda: running(own_service, job_id))
        await own_nats.stop()
        assert (await own_service.harness.ended(job_id)).state == JobState.SUCCEEDED
        own_nats.wipe()
        await own_nats.start()
        assert (await own_service.harness.ended(await own_service.harness.create())).state == JobState.SUCCEEDED
    assert [a.outcome for a in await own_service.harness.attempts(job_id)] == [Outcome.SUCCEEDED]


@pytest.mark.long
@QUIET
async def test_long_queue_is_listed_completely(service: JobServiceHarness) -> None:
    """The list of what waits comes in pages; none may be missed, or each round would dispatch it again."""
    job_id = await service.harness.create(*(task(ordinal=n) for n in range(20_000)))
    await until(lambda: is_dispatched(service), 120)
    started = time.monotonic()
    await reconcile(service)
    print(f"a round over 20,000 waiting tasks: {time.monotonic() - started:.3f} s")
    assert await service.harness.rows(sa.select(TABLES.tasks.c.id).where(TABLES.tasks.c.dispatch > 1)) == []
    (some,) = await service.harness.rows(sa.select(TABLES.tasks.c.id).limit(1).offset(12_345))
    await service.client.jsm().purge_stream(
        service.subjects.stream, subject=service.subjects.task(job_harness.TASK, some.id)
    )
    await reconcile(service)
    again = await service.harness.rows(sa.select(TABLES.tasks.c.id).where(TABLES.tasks.c.dispatch > 1))
    assert [row.id for row in again] == [some.id]
    await service.harness.cancel(job_id)


async def reconcile(service: JobServiceHarness) -> None:
    """One whole round."""
    harness = service.harness
    await Reconciler(harness.database, harness.store, service.client, service.subjects, harness.settings).reconcile()


async def publish_task(service: JobServiceHarness, task_id: uuid.UUID, dispatch: int) -> None:
    message = messages_pb2.TaskMessage(
        task_id=str(task_id), owner="testowner", kind=job_harness.TASK, dispatch=dispatch
    )
    subject = service.subjects.task(job_harness.TASK, task_id)
    await service.client.jetstream().publish(subject, message.SerializeToString())


async def lost(service: JobServiceHarness, job_id: uuid.UUID) -> bool:
    return [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.LOST]


async def exists(path: pathlib.Path) -> bool:
    return path.exists()


async def written(path: pathlib.Path) -> bool:
    return path.exists() and path.read_text() != ""


async def gone(*pids: int) -> bool:
    return not any(is_alive(pid) for pid in pids)
