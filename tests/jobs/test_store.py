"""The store alone: what each step does, and what it refuses."""

import asyncio
import contextlib
import re
import uuid

import pytest
import sqlalchemy as sa

from polytok import errors
from services.jobs import repository
from services.jobs.model import JobState, Outcome, TaskState
from services.runtime.settings import JobSettings
from tests.jobs import job_harness
from tests.jobs.job_harness import TABLES, JobStoreHarness, task
from tests.jobs.payloads import pack, unpack


async def lease(harness: JobStoreHarness, task_id: uuid.UUID, worker: str = "w"):
    found = await harness.acquire(task_id, worker)
    assert found is not None
    return found


async def test_created_job_has_outbox_row(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task(ordinal=0), task(ordinal=1, max_attempts=7))
    job, tasks = await harness.job(job_id), await harness.tasks(job_id)
    assert job.state == JobState.ACTIVE
    assert [(t.state, t.epoch, t.attempts, t.max_attempts) for t in tasks] == [("READY", 0, 0, 3), ("READY", 0, 0, 7)]
    outbox = await harness.rows(sa.select(TABLES.outbox))
    assert {(row.task_id, row.dispatch) for row in outbox} == {(t.id, 1) for t in tasks}
    assert (await harness.record(job_id)).state == "PENDING"


async def test_a_job_that_is_rolled_back_leaves_nothing(harness: JobStoreHarness) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with harness.database.transaction() as conn:
            await harness.store.create(conn, job_harness.KIND, "records/x", [task()])
            raise ZeroDivisionError
    for table in (TABLES.jobs, TABLES.tasks, TABLES.outbox):
        assert await harness.rows(sa.select(table)) == []


async def test_jobs_without_tasks_or_handler_are_refused(harness: JobStoreHarness) -> None:
    async with harness.database.transaction() as conn:
        with pytest.raises(ValueError, match="task"):
            await harness.store.create(conn, job_harness.KIND, "records/x", [])
        with pytest.raises(ValueError, match="handler"):
            await harness.store.create(conn, "unknown", "records/x", [task()])


async def test_a_lease_carries_all_that_the_worker_needs(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task("echo", say="hello"))
    got = await lease(harness, await harness.task_id(job_id))
    assert (got.epoch, got.attempt, got.kind, got.job_id) == (1, 1, job_harness.TASK, job_id)
    assert got.resource == (await harness.job(job_id)).resource
    assert unpack(got.payload) == {"do": "echo", "say": "hello"}
    assert 0 < got.ttl.total_seconds() <= 30
    assert (await harness.record(job_id)).state == "STARTED"


async def test_acquire_is_idempotent_per_request(harness: JobStoreHarness) -> None:
    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    request_id = uuid.uuid4()
    first = await harness.acquire(task_id, "a", request_id)
    again = await harness.acquire(task_id, "a", request_id)
    assert first is not None
    assert again is not None
    assert (again.epoch, again.attempt) == (first.epoch, first.attempt) == (1, 1)
    assert again.ttl < first.ttl
    assert await harness.acquire(task_id, "a") is None
    assert await harness.acquire(task_id, "b", request_id) is None
    assert len(await harness.attempts(job_id)) == 1


async def test_concurrent_acquires_grant_one_lease(harness: JobStoreHarness) -> None:
    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    leases = await asyncio.gather(*(harness.acquire(task_id, f"w{n}") for n in range(12)))
    assert [each.epoch for each in leases if each] == [1]
    assert [a.outcome for a in await harness.attempts(job_id)] == [Outcome.RUNNING]


async def test_a_task_that_is_gone_is_not_found(harness: JobStoreHarness) -> None:
    with pytest.raises(errors.NotFound):
        await harness.acquire(uuid.uuid4())


async def test_completing_the_last_task_publishes_once(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task(ordinal=0), task(ordinal=1))
    first, second = [t.id for t in await harness.tasks(job_id)]
    await lease(harness, second), await lease(harness, first)
    await harness.complete(second, 1, pack(n=2))
    assert (await harness.job(job_id)).state == JobState.ACTIVE
    await harness.complete(first, 1, pack(n=1))
    await harness.complete(first, 1, pack(n=99))
    job, record = await harness.job(job_id), await harness.record(job_id)
    assert (job.state, record.state, record.published) == (JobState.SUCCEEDED, "READY", 1)
    assert job.finished_at is not None
    assert [(r.ordinal, unpack(r.result)) for r in harness.handler.results] == [(0, {"n": 1.0}), (1, {"n": 2.0})]
    assert [a.outcome for a in await harness.attempts(job_id)] == [Outcome.SUCCEEDED] * 2


async def test_last_stage_ends_job(harness: JobStoreHarness) -> None:
    harness.handler.stages = [[task(ordinal=n, weight=5) for n in range(2)], [task("echo")]]
    job_id = await harness.create(task())
    await lease(harness, await harness.task_id(job_id))
    await harness.complete(await harness.task_id(job_id), 1)
    tasks = await harness.tasks(job_id)
    assert [(t.stage, t.state) for t in tasks] == [(0, "SUCCEEDED"), (1, "READY"), (1, "READY")]
    dispatched = {row.task_id for row in await harness.rows(sa.select(TABLES.outbox))}
    assert {t.id for t in tasks if t.stage == 1} <= dispatched
    for each in tasks[1:]:
        await lease(harness, each.id)
        await harness.complete(each.id, 1)
    (last,) = [t for t in await harness.tasks(job_id) if t.stage == 2]
    await lease(harness, last.id)
    await harness.complete(last.id, 1)
    assert (await harness.job(job_id)).state == JobState.SUCCEEDED


async def test_concurrent_completions_start_next_stage_once(harness: JobStoreHarness) -> None:
    harness.handler.stages = [[task()]]
    job_id = await harness.create(*(task(ordinal=n) for n in range(6)))
    ids = [t.id for t in await harness.tasks(job_id)]
    for task_id in ids:
        await lease(harness, task_id)
    await asyncio.gather(*(harness.complete(task_id, 1) for task_id in ids))
    assert [t.stage for t in await harness.tasks(job_id)] == [0] * 6 + [1]


@pytest.mark.parametrize("write", ["extend", "complete", "fail", "release"])
@pytest.mark.parametrize("why", ["expired", "taken over", "cancelled", "deleted", "future epoch"])
async def test_a_write_without_a_valid_lease_changes_nothing(harness: JobStoreHarness, write: str, why: str) -> None:
    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    epoch = (await lease(harness, task_id)).epoch
    if why in ("expired", "taken over"):
        await harness.outdate(task_id)
    if why == "taken over":
        await lease(harness, task_id, "other")
    if why == "cancelled":
        assert await harness.cancel(job_id)
    if why == "deleted":
        await harness.delete(job_id)
    before = [
        await harness.rows(sa.select(table)) for table in (TABLES.jobs, TABLES.tasks, TABLES.attempts, TABLES.outbox)
    ]
    with pytest.raises(errors.Aborted) as caught:
        await getattr(harness, write)(task_id, epoch + 1 if why == "future epoch" else epoch)
    assert caught.value.reason == "LEASE_LOST"
    after = [
        await harness.rows(sa.select(table)) for table in (TABLES.jobs, TABLES.tasks, TABLES.attempts, TABLES.outbox)
    ]
    assert after == before


async def test_retryable_failure_waits_backoff(harness: JobStoreHarness) -> None:
    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    await lease(harness, task_id)
    assert await harness.fail(task_id, 1, message="The hub is away.")
    assert await harness.fail(task_id, 1, message="A repeated call."), "a repeated call gets the same answer"
    (row,) = await harness.tasks(job_id)
    assert (row.state, row.attempts, row.worker) == (TaskState.READY, 1, None)
    (attempt,) = await harness.attempts(job_id)
    assert (attempt.outcome, attempt.error_message) == (Outcome.FAILED, "The hub is away.")
    dispatches = await harness.rows(sa.select(TABLES.outbox).order_by(TABLES.outbox.c.dispatch))
    assert [(d.dispatch, d.due_at >= row.not_before) for d in dispatches] == [(1, False), (2, True)]


@pytest.mark.parametrize("job_settings", [{"backoff_seconds": 60}], indirect=True)
async def test_a_task_in_its_backoff_is_not_given_out(harness: JobStoreHarness) -> None:
    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    await lease(harness, task_id)
    await harness.fail(task_id, 1)
    assert await harness.acquire(task_id) is None
    await harness.outdate(task_id)
    assert (await lease(harness, task_id)).epoch == 2


async def test_last_failed_attempt_fails_job_and_fences_tasks(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task(ordinal=0, max_attempts=2), task(ordinal=1), task(ordinal=2))
    failing, running, waiting = [t.id for t in await harness.tasks(job_id)]
    await lease(harness, running)
    for epoch in (1, 2):
        await harness.outdate(failing)
        await lease(harness, failing)
        assert await harness.fail(failing, epoch) == (epoch == 1)
    job, record = await harness.job(job_id), await harness.record(job_id)
    assert (job.state, job.error_reason, record.state) == (JobState.FAILED, "INTERNAL", "ERROR")
    assert re.fullmatch(r"It broke\. .*\b2\b.*", record.error)
    assert [t.state for t in await harness.tasks(job_id)] == ["FAILED", "CANCELLED", "CANCELLED"]
    with pytest.raises(errors.Aborted):
        await harness.complete(running, 1)
    assert await harness.acquire(waiting) is None
    assert await harness.rows(sa.select(TABLES.outbox)) == []


async def test_permanent_failure_ends_job(harness: JobStoreHarness) -> None:
    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    await lease(harness, task_id)
    assert not await harness.fail(task_id, 1, retryable=False, message="There is no such column.")
    assert not await harness.fail(task_id, 1, retryable=False)
    assert (await harness.job(job_id)).state == JobState.FAILED
    assert (await harness.record(job_id)).error == "There is no such column."


async def test_release_requeues_immediately_without_consuming_attempt(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task(max_attempts=1))
    task_id = await harness.task_id(job_id)
    for epoch in (1, 2, 3):
        got = await lease(harness, task_id)
        assert (got.epoch, got.attempt) == (epoch, 1)
        assert got.resume_point == (b"" if epoch == 1 else f"at {epoch - 1}".encode())
        await harness.release(task_id, epoch, f"at {epoch}".encode())
        await harness.release(task_id, epoch)
    assert [a.outcome for a in await harness.attempts(job_id)] == [Outcome.RELEASED] * 3


async def test_new_resume_point_resets_attempts(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task(max_attempts=2))
    task_id = await harness.task_id(job_id)
    for epoch in range(1, 7):
        assert await lease(harness, task_id)
        await harness.extend(task_id, epoch, (epoch, 100), f"step {epoch}".encode())
        assert await harness.fail(task_id, epoch)
        await harness.outdate(task_id)
    # Progress alone is none, nor is the resume point that there was: of two more attempts the second is the last.
    for epoch in (7, 8):
        assert await lease(harness, task_id)
        await harness.extend(task_id, epoch, (50 + epoch, 100), b"step 6")
        assert await harness.fail(task_id, epoch) == (epoch == 7)
        await harness.outdate(task_id)
    job = await harness.job(job_id)
    assert job.state == JobState.FAILED
    assert re.fullmatch(r"It broke\. .*\b2\b.*", job.error_message or "")
    assert [a.error_reason for a in await harness.attempts(job_id)] == ["INTERNAL"] * 8


async def test_release_does_not_change_attempts(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task(max_attempts=2))
    task_id = await harness.task_id(job_id)
    for epoch, point in enumerate((b"", b"step 1", b"step 1", b""), start=1):
        await lease(harness, task_id)
        await harness.release(task_id, epoch, point)
    await lease(harness, task_id)
    await harness.extend(task_id, 5, None, b"step 2")
    await harness.release(task_id, 5)
    assert [row.attempts for row in await harness.tasks(job_id)] == [0]
    for epoch in (6, 7):
        await lease(harness, task_id)
        assert await harness.fail(task_id, epoch) == (epoch == 6)
        await harness.outdate(task_id)


async def test_attempts_without_end_are_kept_within_bounds(
    harness: JobStoreHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "KEPT_ATTEMPTS", 3)
    job_id = await harness.create(task(max_attempts=1))
    task_id = await harness.task_id(job_id)
    for epoch in range(1, 7):
        await lease(harness, task_id)
        await harness.release(task_id, epoch)
    assert [a.epoch for a in await harness.attempts(job_id)] == [4, 5, 6]


async def test_progress_never_goes_back_within_an_epoch(harness: JobStoreHarness) -> None:
    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    await lease(harness, task_id)
    for done, expected in ((10, 10), (50, 50), (20, 50)):
        await harness.extend(task_id, 1, (done, 100))
        assert (await harness.record(job_id)).percent == expected
    await harness.extend(task_id, 1)
    assert (await harness.tasks(job_id))[0].progress_done == 50
    await harness.outdate(task_id)
    await lease(harness, task_id)
    assert (await harness.tasks(job_id))[0].progress_done == 0, "another attempt starts over"


async def test_with_a_resume_point_progress_goes_on(harness: JobStoreHarness) -> None:
    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    await lease(harness, task_id)
    await harness.extend(task_id, 1, (60, 100), b"row 60")
    await harness.outdate(task_id)
    assert (await lease(harness, task_id)).resume_point == b"row 60"
    assert (await harness.tasks(job_id))[0].progress_done == 60


async def test_progress_is_weighed(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task(ordinal=0, weight=300), task(ordinal=1, weight=100), task(ordinal=2))
    big, small, rest = [t.id for t in await harness.tasks(job_id)]
    for task_id in (big, small, rest):
        await lease(harness, task_id)
    await harness.extend(big, 1, (1, 2))
    assert (await harness.record(job_id)).percent == 37.5
    await harness.complete(small, 1)
    assert (await harness.record(job_id)).percent == 62.5
    await harness.complete(rest, 1)
    assert (await harness.record(job_id)).percent == 62.5
    await harness.complete(big, 1)
    async with harness.database.connection() as conn:
        assert await harness.store.percent(conn, job_id) == 100


async def test_progress_reserves_share_for_later_stages(harness: JobStoreHarness) -> None:
    # A measure for each stage; the third was not foreseen to be left out.
    harness.handler.stages = [[task(ordinal=n, weight=2, ahead=4) for n in range(2)], [task(weight=7)]]
    job_id = await harness.create(*(task(ordinal=n, weight=1000, ahead=3000) for n in range(2)))
    seen = []
    for stage, count in enumerate((2, 2, 1)):
        tasks = [row.id for row in await harness.tasks(job_id) if row.stage == stage]
        assert len(tasks) == count
        for task_id in tasks:
            await lease(harness, task_id)
            await harness.extend(task_id, 1, (1, 2))
            seen.append((await harness.record(job_id)).percent)
            await harness.complete(task_id, 1)
            seen.append((await harness.record(job_id)).percent)
    assert seen == pytest.approx([6.25, 12.5, 18.75, 25, 31.25, 37.5, 43.75, 50, 75, 75])
    assert (await harness.job(job_id)).state == JobState.SUCCEEDED
    async with harness.database.connection() as conn:
        assert await harness.store.percent(conn, job_id) == 100


async def test_cancel_ends_everything_once(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task(ordinal=0), task(ordinal=1))
    await lease(harness, (await harness.tasks(job_id))[0].id)
    assert await harness.cancel(job_id)
    assert not await harness.cancel(job_id)
    assert not await harness.cancel(uuid.uuid4())
    assert (await harness.job(job_id)).state == JobState.CANCELLED
    assert (await harness.record(job_id)).state == "CANCELLED"
    assert [(t.state, t.epoch) for t in await harness.tasks(job_id)] == [("CANCELLED", 2), ("CANCELLED", 1)]
    assert [a.outcome for a in await harness.attempts(job_id)] == [Outcome.CANCELLED]
    assert await harness.rows(sa.select(TABLES.outbox)) == []


async def test_delete_leaves_no_row(harness: JobStoreHarness) -> None:
    job_id, kept = await harness.create(), await harness.create()
    await lease(harness, await harness.task_id(job_id))
    await harness.delete(job_id)
    await harness.delete(job_id)
    assert [row.id for row in await harness.rows(sa.select(TABLES.jobs))] == [kept]
    assert [row.job_id for row in await harness.rows(sa.select(TABLES.tasks))] == [kept]
    assert await harness.rows(sa.select(TABLES.attempts)) == []
    assert len(await harness.rows(sa.select(TABLES.outbox))) == 1


async def test_expired_lease_counts_as_attempt(harness: JobStoreHarness) -> None:
    job_id = await harness.create(task(max_attempts=2))
    task_id = await harness.task_id(job_id)
    await lease(harness, task_id)
    assert not await harness.expire(task_id), "the lease is valid"
    await harness.outdate(task_id)
    assert await harness.expire(task_id)
    assert not await harness.expire(task_id)
    await harness.outdate(task_id)
    await lease(harness, task_id)
    await harness.outdate(task_id)
    assert await harness.acquire(task_id) is None, "there are no attempts left"
    job = await harness.job(job_id)
    assert (job.state, job.error_reason) == (JobState.FAILED, "WORKER_LOST")
    assert [a.outcome for a in await harness.attempts(job_id)] == [Outcome.LOST] * 2


@pytest.mark.parametrize("job_settings", [{"lease_ttl_seconds": 0.3}], indirect=True)
async def test_publication_after_lease_expiry_is_rejected(harness: JobStoreHarness) -> None:
    async def dawdle() -> None:
        await asyncio.sleep(0.5)

    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    await lease(harness, task_id)
    harness.handler.publishing = dawdle
    with pytest.raises(errors.Aborted):
        await harness.complete(task_id, 1)
    record = await harness.record(job_id)
    assert ((await harness.job(job_id)).state, record.state, record.published) == (JobState.ACTIVE, "STARTED", 0)
    harness.handler.publishing = None
    patient = JobStoreHarness(harness.database, JobSettings(), harness.handler)
    assert (await lease(patient, task_id)).epoch == 2
    await patient.complete(task_id, 2)
    assert (await harness.record(job_id)).published == 1


async def test_a_publishing_job_is_locked(harness: JobStoreHarness) -> None:
    publishing, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        publishing.set()
        await go_on.wait()

    harness.handler.publishing = hold
    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    await lease(harness, task_id)
    completing = asyncio.create_task(harness.complete(task_id, 1))
    await publishing.wait()
    others = [
        asyncio.create_task(each)
        for each in (harness.cancel(job_id), harness.acquire(task_id, "thief"), harness.expire(task_id))
    ]
    await asyncio.sleep(0.2)
    assert not any(each.done() for each in others)
    go_on.set()
    await completing
    assert await asyncio.gather(*others) == [False, None, False]
    assert (await harness.record(job_id)).state == "READY"


async def test_a_handler_that_fails_undoes_the_step(harness: JobStoreHarness) -> None:
    async def refuse() -> None:
        raise errors.DataLoss("part-0 is not what was written.")

    job_id = await harness.create()
    task_id = await harness.task_id(job_id)
    await lease(harness, task_id)
    harness.handler.publishing = refuse
    with pytest.raises(errors.DataLoss):
        await harness.complete(task_id, 1)
    assert (await harness.tasks(job_id))[0].state == TaskState.RUNNING
    assert (await harness.record(job_id)).published == 0
