"""Jobs from create to end: a real database, a real queue, real workers with real child processes."""

import asyncio
import pathlib
import time
import uuid

import pytest
import sqlalchemy as sa
from nats.aio.msg import Msg

from polytok.jobs.v1 import messages_pb2
from services.jobs.model import JobState, Outcome
from services.jobs.progress import ProgressHub
from services.runtime.telemetry.metrics import REGISTRY
from tests.jobs import job_harness
from tests.jobs.job_harness import TABLES, JobServiceHarness, task, until
from tests.jobs.payloads import unpack
from tests.support import tasks


async def queue_is_empty(service: JobServiceHarness) -> bool:
    info = await service.client.jsm().stream_info(service.subjects.stream)
    return info.state.messages == 0


async def is_dispatched(service: JobServiceHarness) -> bool:
    """Return whether the outbox is empty; a worker may be faster than the transaction that empties it."""
    return await service.harness.rows(sa.select(TABLES.outbox).limit(1)) == []


async def test_a_job_runs_to_its_end_and_leaves_nothing_behind(service: JobServiceHarness) -> None:
    harness = service.harness
    harness.handler.stages = [
        [task("echo", ordinal=n, say=f"second {n}") for n in range(3)],
        [task("echo", say="last")],
    ]
    async with service.worker():
        job_id = await harness.create(task("echo", say="first"))
        assert (await harness.ended(job_id)).state == JobState.SUCCEEDED
        assert [unpack(r.result)["said"] for r in harness.handler.results] == ["last"]
        assert (await harness.record(job_id)).published == 1
        await until(lambda: queue_is_empty(service))
        await until(lambda: is_dispatched(service))
    assert {(a.outcome, a.epoch) for a in await harness.attempts(job_id)} == {(Outcome.SUCCEEDED, 1)}


async def test_several_workers_share_a_job(service: JobServiceHarness, tmp_path: pathlib.Path) -> None:
    async with service.worker(), service.worker():
        meeting = [task("meet", ordinal=n, name=str(n), folder=str(tmp_path), number=2) for n in range(12)]
        job_id = await service.harness.create(*meeting)
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    assert len({unpack(r.result)["pid"] for r in service.harness.handler.results}) == 2
    assert [r.ordinal for r in service.harness.handler.results] == list(range(12))


@pytest.mark.parametrize("job_settings", [{"reconcile_seconds": 3600}], indirect=True)
async def test_jobs_run_without_reconciler(service: JobServiceHarness) -> None:
    async with service.worker():
        for _ in range(20):
            job_id = await service.harness.create()
            assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("doing", "reason", "message"),
    [
        ("refuse", "COLUMN_NOT_FOUND", "The column is not there; choose another."),
        ("full", "DISK_FULL", "disk"),
        ("crash", "INTERNAL", "ValueError"),
    ],
)
async def test_task_error_reaches_record(service: JobServiceHarness, doing: str, reason: str, message: str) -> None:
    async with service.worker():
        job_id = await service.harness.create(task(doing))
        job = await service.harness.ended(job_id)
    assert (job.state, job.error_reason) == (JobState.FAILED, reason)
    assert message in (await service.harness.record(job_id)).error
    assert len(await service.harness.attempts(job_id)) == (1 if doing == "refuse" else 3)


@pytest.mark.parametrize("job_settings", [{"backoff_seconds": 0.4}], indirect=True)
async def test_transient_failure_is_retried(service: JobServiceHarness, tmp_path) -> None:
    async with service.worker():
        job_id = await service.harness.create(task("stumble", once=str(tmp_path / "once")))
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    first, second = await service.harness.attempts(job_id)
    assert (first.outcome, first.error_reason, second.outcome) == (Outcome.FAILED, "STORAGE_FAILED", Outcome.SUCCEEDED)
    assert (second.started_at - first.ended_at).total_seconds() > 0.3


@pytest.mark.parametrize("job_settings", [{"lease_ttl_seconds": 4}], indirect=True)
async def test_a_task_may_take_longer_than_its_lease(service: JobServiceHarness) -> None:
    async with service.worker():
        job_id = await service.harness.create(task("work", seconds=6))
        task_id = await service.harness.task_id(job_id)

        async def percent() -> float:
            return (await service.harness.record(job_id)).percent

        assert 0 < await until(percent) < 100
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    assert [(a.task_id, a.outcome) for a in await service.harness.attempts(job_id)] == [(task_id, Outcome.SUCCEEDED)]


@pytest.mark.parametrize("job_settings", [{"lease_ttl_seconds": 600}], indirect=True)
async def test_progress_is_live(service: JobServiceHarness) -> None:
    hub = ProgressHub(service.client, service.subjects, service.harness.store)
    running = asyncio.create_task(hub.run())
    await asyncio.sleep(0)
    events: list[float] = []
    seen: list[float] = []

    async def percent(job_id: uuid.UUID) -> float:
        async with service.harness.database.connection() as conn:
            return await hub.percent(conn, job_id)

    async def several() -> bool:
        seen.append(await percent(job_id))
        return len({p for p in seen if 0 < p < 100}) >= 4

    try:
        async with service.worker():
            job_id = await service.harness.create(task("work", seconds=60))
            began = time.monotonic()
            unsubscribe = hub.subscribe(job_id, lambda: events.append(time.monotonic()))
            await until(several)
            unsubscribe()
            assert 4 <= len(events) <= 5 * (events[-1] - began) + 2, "at most five a second"
            assert (await service.harness.tasks(job_id))[0].progress_done == 0, "the heartbeat has not come yet"
            await service.harness.cancel(job_id)
            done = await service.harness.create()
            await service.harness.ended(done)
            assert await percent(done) == 100
    finally:
        await tasks.end(running)
    assert seen == sorted(seen)


async def test_garbage_about_progress_is_passed_over(service: JobServiceHarness) -> None:
    hub = ProgressHub(service.client, service.subjects, service.harness.store)
    running = asyncio.create_task(hub.run())
    await asyncio.sleep(0)
    for data in (b"\xff\xff garbage", messages_pb2.ProgressEvent(task_id="x", job_id="y").SerializeToString()):
        await service.client.publish(service.subjects.progress("anything"), data)
    await service.client.flush()
    assert not running.done()
    await tasks.end(running)


async def test_cancel_stops_a_running_child(service: JobServiceHarness) -> None:
    async with service.worker() as (worker, _):
        job_id = await service.harness.create(task("work", seconds=60))
        await until(lambda: running(service, job_id))
        pid = worker.child_pid
        assert await service.harness.cancel(job_id)

        async def replaced() -> bool:
            return worker.child_pid != pid and await worker.ready()

        await until(replaced)
        next_job = await service.harness.create()
        assert (await service.harness.ended(next_job)).state == JobState.SUCCEEDED
    assert (await service.harness.job(job_id)).state == JobState.CANCELLED
    assert (await service.harness.record(job_id)).state == "CANCELLED"


async def test_a_stop_event_alone_decides_nothing(service: JobServiceHarness) -> None:
    async with service.worker() as (worker, _):
        job_id = await service.harness.create(task("work", seconds=1))
        await until(lambda: running(service, job_id))
        pid = worker.child_pid
        event = messages_pb2.StopEvent(job_id=str(job_id))
        await service.client.publish(service.subjects.stop(job_id), event.SerializeToString())
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
        assert worker.child_pid == pid


async def test_deleting_a_running_job_stops_its_child(service: JobServiceHarness) -> None:
    async with service.worker() as (worker, _):
        job_id = await service.harness.create(task("work", seconds=60))
        await until(lambda: running(service, job_id))
        pid = worker.child_pid
        await service.harness.delete(job_id)

        async def replaced() -> bool:
            return worker.child_pid != pid

        await until(replaced)
        await until(lambda: queue_is_empty(service))
    assert await service.harness.rows(sa.select(TABLES.tasks)) == []


async def test_stopping_worker_releases_task(service: JobServiceHarness) -> None:
    job_id = await service.harness.create(task("work", seconds=60, resume=True, max_attempts=1))
    heard = asyncio.Event()

    async def hear(_: Msg) -> None:
        heard.set()

    # What the worker tells people it also keeps until its next heartbeat.
    await service.client.subscribe(service.subjects.progress("*"), cb=hear)
    async with service.worker() as (_, stop):
        await heard.wait()
        stop.set()

        async def released() -> bool:
            return (await service.harness.tasks(job_id))[0].state == "READY"

        await until(released)
    (row,) = await service.harness.tasks(job_id)
    assert row.attempts == 0
    assert row.resume_point.startswith(b"step ")
    assert [a.outcome for a in await service.harness.attempts(job_id)] == [Outcome.RELEASED]
    async with service.worker():
        await until(lambda: running(service, job_id))
        assert (await service.harness.tasks(job_id))[0].epoch == 2
        await service.harness.cancel(job_id)


async def running(service: JobServiceHarness, job_id) -> bool:
    return any(row.state == "RUNNING" for row in await service.harness.tasks(job_id))


async def test_the_backlog_is_a_metric(service: JobServiceHarness) -> None:
    def reported(state: str) -> float | None:
        return REGISTRY.get_sample_value("polytok_jobs_tasks", {"kind": job_harness.TASK, "state": state})

    async def is_told(ready: float | None, running: float | None) -> bool:
        return (reported("READY"), reported("RUNNING")) == (ready, running)

    job_id = await service.harness.create(task("work", seconds=600), task("work", seconds=600, ordinal=1))
    await until(lambda: is_told(2, None))
    async with service.worker():
        await until(lambda: is_told(1, 1))
        await service.harness.cancel(job_id)
        await until(lambda: is_told(None, None))
