"""Tasks that record what they find and can stop for a while: real processes, database and queue."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import any_pb2, struct_pb2

from polytok import errors
from services.jobs import model
from services.jobs.model import JobState, Outcome
from tests.jobs import job_harness
from tests.jobs.job_harness import JobServiceHarness, JobStoreHarness, task, until
from tests.jobs.payloads import unpack
from tests.support import processes

if TYPE_CHECKING:
    import pathlib

    from services.runtime.settings import DatabaseSettings, JobSettings, MessagingSettings


class Logbook(job_harness.FakeJobHandler):
    """Keeps the steps that tasks record, by step, and ends jobs that are to pause."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[int, int] = {}
        self.pause_requested = False
        self.left_at: list[bytes] = []

    async def record(self, conn: Any, job: model.Job, epoch: int, reports: Sequence[bytes]) -> None:
        for report in reports:
            found = struct_pb2.Struct()
            assert any_pb2.Any.FromString(report).Unpack(found)
            self.steps[int(dict(found)["step"])] = epoch

    async def is_pause_requested(self, conn: Any, job: model.Job) -> bool:
        return self.pause_requested

    async def paused(self, conn: Any, job: model.Job, resume_point: bytes) -> None:
        self.left_at.append(resume_point)
        await self._write(conn, job, state="PAUSED")


@pytest.fixture
def logbook() -> Logbook:
    return Logbook()


@pytest.fixture
async def service(
    logbook: Logbook,
    job_settings: JobSettings,
    database_settings: DatabaseSettings,
    messaging_settings: MessagingSettings,
) -> AsyncIterator[JobServiceHarness]:
    async with job_harness.open_store_harness(database_settings, job_settings) as plain:
        harness = JobStoreHarness(plain.database, job_settings, logbook)
        async with JobServiceHarness(harness, database_settings, messaging_settings).open() as service:
            yield service


async def request_pause(harness: JobStoreHarness, job_id: uuid.UUID) -> bool:
    async with harness.database.transaction() as conn:
        return await harness.store.request_pause(conn, job_id)


async def test_steps_are_recorded_once_despite_kills(
    service: JobServiceHarness, logbook: Logbook, tmp_path: pathlib.Path
) -> None:
    async with service.worker(pausable=True):
        job_id = await service.harness.create(task("climb", steps=40, kill_at=25, once=str(tmp_path / "once")))
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    assert sorted(logbook.steps) == list(range(1, 41))
    (result,) = logbook.results
    # It went on from a resume point that had reached the owner, and recorded again what came after it.
    resumed_at = 40 - int(unpack(result.result)["climbed"])
    assert resumed_at % 10 == 0
    assert int(unpack(result.result)["kept"]) % 10 == 0  # the task process received what the owner has
    assert {step for step, epoch in logbook.steps.items() if epoch == 2} == set(range(resumed_at + 1, 41))


async def test_paused_job_stops_at_resume_point(service: JobServiceHarness, logbook: Logbook) -> None:
    harness = service.harness
    async with service.worker(pausable=True):
        job_id = await harness.create(task("climb", steps=100_000))
        await until(lambda: _reached(logbook, 30))
        logbook.pause_requested = True
        assert not await request_pause(harness, job_id)
        assert (await harness.ended(job_id)).state == JobState.CANCELLED
        assert (await harness.record(job_id)).state == "PAUSED"
        (left_at,) = logbook.left_at
        step = int(left_at)
        assert sorted(logbook.steps) == list(range(1, step + 1))
        assert [each.outcome for each in await harness.attempts(job_id)] == [Outcome.RELEASED]
        logbook.pause_requested = False
        again = await harness.create(_from(task("climb", steps=step + 15), left_at))
        assert (await harness.ended(again)).state == JobState.SUCCEEDED
    assert sorted(logbook.steps) == list(range(1, step + 16))


async def _reached(logbook: Logbook, step: int) -> bool:
    return len(logbook.steps) >= step


def _from(new: model.NewTask, resume_point: bytes) -> model.NewTask:
    return model.NewTask(new.kind, new.payload, resume_point=resume_point)


async def test_draining_worker_stops_task_gracefully(service: JobServiceHarness, logbook: Logbook) -> None:
    harness = service.harness
    async with service.worker(pausable=True) as (_, stop):
        job_id = await harness.create(task("climb", steps=100_000))
        await until(lambda: _reached(logbook, 5))
        stop.set()
        await until(lambda: _outcome(harness, job_id, Outcome.RELEASED))
    (row,) = await harness.tasks(job_id)
    assert (row.state, row.attempts) == ("READY", 0)
    assert sorted(logbook.steps) == list(range(1, int(row.resume_point) + 1))


async def _outcome(harness: JobStoreHarness, job_id: uuid.UUID, outcome: Outcome) -> bool:
    return any(each.outcome == outcome for each in await harness.attempts(job_id))


async def test_waiting_job_is_paused_immediately(service: JobServiceHarness, logbook: Logbook) -> None:
    harness = service.harness
    job_id = await harness.create(_from(task("climb", steps=10), b"7"))
    logbook.pause_requested = True
    assert await request_pause(harness, job_id)
    assert (await harness.job(job_id)).state == JobState.CANCELLED
    assert logbook.left_at == [b"7"]
    assert not await request_pause(harness, job_id)  # it has ended


async def test_expired_lease_completes_pause(service: JobServiceHarness, logbook: Logbook) -> None:
    harness = service.harness
    job_id = await harness.create(task("climb", steps=10))
    task_id = await harness.task_id(job_id)
    lease = await harness.acquire(task_id)
    assert lease is not None
    await harness.extend(task_id, lease.epoch, (4, 10), b"4")
    logbook.pause_requested = True
    await harness.outdate(task_id)
    assert await harness.expire(task_id)
    assert (await harness.job(job_id)).state == JobState.CANCELLED
    assert logbook.left_at == [b"4"]


@pytest.mark.parametrize("job_settings", [{"max_attempts": 2}], indirect=True)
async def test_killed_task_finishes_if_every_attempt_progresses(service: JobServiceHarness) -> None:
    async with service.worker():
        job_id = await service.harness.create(task("fall", steps=50))
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
    lost = [(a.outcome, a.error_reason) for a in await service.harness.attempts(job_id)]
    assert lost == [*[(Outcome.FAILED, "WORKER_LOST")] * 5, (Outcome.SUCCEEDED, None)]


async def test_reports_of_an_old_epoch_are_not_kept(service: JobServiceHarness, logbook: Logbook) -> None:
    harness = service.harness
    task_id = await harness.task_id(await harness.create(task("climb", steps=10)))
    first = await harness.acquire(task_id)
    await harness.outdate(task_id)
    second = await harness.acquire(task_id, "another")
    assert first is not None
    assert second is not None
    with pytest.raises(errors.Aborted):
        await harness.extend(task_id, first.epoch, None, b"", [_step(1)])
    await harness.extend(task_id, second.epoch, None, b"", [_step(2)])
    assert logbook.steps == {2: second.epoch}


def _step(number: int) -> bytes:
    found = struct_pb2.Struct()
    found.update({"step": number})
    packed = any_pb2.Any()
    packed.Pack(found)
    return packed.SerializeToString()


async def test_lazy_child_starts_with_first_task(service: JobServiceHarness) -> None:
    async with service.worker(lazy=True) as (worker, _):
        assert worker.child_pid == 0
        job_id = await service.harness.create(task("echo", say="hello"))
        assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
        assert worker.child_pid


async def test_lazy_child_stops_when_idle_and_restarts(
    service: JobServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYTOK_WORKER_IDLE_SECONDS", "0.1")
    async with service.worker(lazy=True) as (worker, _):
        for _ in range(2):
            job_id = await service.harness.create(task("echo", say="hello"))
            assert (await service.harness.ended(job_id)).state == JobState.SUCCEEDED
            child = worker.child_pid
            async with asyncio.timeout(60):
                while processes.is_alive(child):  # noqa: ASYNC110  it is another process
                    await asyncio.sleep(0.02)
