"""A state machine that does to jobs what workers, users and the reconciler do, against the real database.

It keeps its own idea of every job and task, does one thing after another, and after each compares all rows with that
idea. I1: every job ends once. I3: only a valid lease publishes. I4: a repeated request is answered the same and does
nothing. I5: ends are final, and progress does not go back within an epoch. I6: nothing is left behind.
"""

import asyncio
import dataclasses
import uuid
from collections.abc import Coroutine
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import stateful
from hypothesis import strategies as st

from polytok import errors
from services.runtime.settings import DatabaseSettings, JobSettings
from tests.jobs import job_harness
from tests.jobs.job_harness import TABLES

MAX_ATTEMPTS = 3
WORKERS = st.sampled_from(["worker-1", "worker-2"])
# How many epochs ago the caller had its lease: mostly it still has it.
BACK = st.sampled_from([0, 0, 0, 0, 1, 2, -1])
FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclasses.dataclass
class Task:
    """What a task should be."""

    id: uuid.UUID
    job: "Job"
    stage: int
    state: str = "READY"
    epoch: int = 0
    attempts: int = 0
    expired: bool = False
    done: int = 0
    total: int = 0
    resume_point: bytes = b""
    worker: str = ""
    request_id: uuid.UUID = dataclasses.field(default_factory=uuid.uuid4)
    outcomes: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def leased(self) -> bool:
        return self.state == "RUNNING" and not self.expired


@dataclasses.dataclass
class Job:
    """What a job should be."""

    id: uuid.UUID
    state: str = "ACTIVE"
    started: bool = False
    tasks: list[Task] = dataclasses.field(default_factory=list)

    @property
    def record(self) -> str:
        ends = {"SUCCEEDED": "READY", "FAILED": "ERROR", "CANCELLED": "CANCELLED"}
        return ends.get(self.state, "STARTED" if self.started else "PENDING")


class JobStateMachine(stateful.RuleBasedStateMachine):
    """Workers, users and the reconciler at work on one store."""

    url: str
    tasks = stateful.Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        # Backoffs of zero: waiting is the business of other tests. Leases are made to end by `outdate`.
        self.settings = JobSettings(lease_ttl_seconds=3600, backoff_seconds=0, max_attempts=MAX_ATTEMPTS)
        self.opened = job_harness.open_store_harness(DatabaseSettings(url=self.url), self.settings)
        self.harness = self.run(self.opened.__aenter__())
        self.run(self.clear())
        self.harness.handler.stages = [[job_harness.task(ordinal=n) for n in range(2)]]
        self.jobs: list[Job] = []

    def teardown(self) -> None:
        self.run(self.opened.__aexit__(None, None, None))
        self.runner.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    async def clear(self) -> None:
        async with self.harness.database.transaction() as conn:
            await conn.execute(sa.text("TRUNCATE jobs, job_tasks, job_attempts, job_outbox, records"))

    def fenced(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(errors.Aborted) as caught:
            self.run(coroutine)
        assert caught.value.reason == "LEASE_LOST"

    @stateful.initialize(target=tasks)
    def begin(self) -> Any:
        return self.create(2)

    # Few jobs at a time, or no task would be met twice.
    @stateful.precondition(lambda self: sum(job.state == "ACTIVE" for job in self.jobs) < 2)
    @stateful.rule(target=tasks, count=st.integers(1, 3))
    def create(self, count: int) -> Any:
        """Return a job of two stages."""
        job = Job(self.run(self.harness.create(*(job_harness.task(ordinal=n) for n in range(count)))))
        job.tasks = [Task(row.id, job, 0) for row in self.run(self.harness.tasks(job.id))]
        self.jobs.append(job)
        return stateful.multiple(*job.tasks)

    @stateful.rule(task=tasks, worker=WORKERS)
    def acquire(self, task: Task, worker: str) -> None:
        """A worker asks for the task, and asks again, as after a timeout."""
        request_id = uuid.uuid4()
        if task.job not in self.jobs:
            with pytest.raises(errors.NotFound):
                self.run(self.harness.acquire(task.id, worker, request_id))
            return
        lease = self.run(self.harness.acquire(task.id, worker, request_id))
        if task.state == "RUNNING" and task.expired:
            self.expect_failure(task, "LOST", retryable=True)
        if task.state != "READY":
            assert lease is None
            return
        assert lease is not None
        task.state, task.epoch, task.attempts, task.expired = "RUNNING", task.epoch + 1, task.attempts + 1, False
        task.worker, task.request_id = worker, request_id
        task.outcomes[task.epoch] = "RUNNING"
        if not task.resume_point:
            task.done = task.total = 0
        task.job.started = True
        assert (lease.epoch, lease.attempt, lease.resume_point) == (task.epoch, task.attempts, task.resume_point)
        assert self.run(self.harness.acquire(task.id, worker, request_id)).epoch == task.epoch

    @stateful.rule(task=tasks)
    def acquire_again(self, task: Task) -> None:
        """A request of long ago is repeated."""
        if task.leased:
            assert self.run(self.harness.acquire(task.id, task.worker, task.request_id)).epoch == task.epoch

    @stateful.rule(task=tasks, back=BACK, done=st.integers(0, 100), resume=st.booleans())
    def extend(self, task: Task, back: int, done: int, resume: bool) -> None:
        """A worker reports, under the epoch that is or one that was."""
        self.take_if_free(task)
        epoch, point = task.epoch - back, f"{done}".encode() if resume else b""
        call = self.harness.extend(task.id, epoch, (done, 100), point)
        if not task.leased or back:
            self.fenced(call)
            return
        self.run(call)
        # Who moved the resume point has all attempts again.
        task.attempts = 0 if resume and point != task.resume_point else task.attempts
        task.done, task.total, task.resume_point = max(task.done, done), 100, point or task.resume_point

    @stateful.rule(task=tasks, back=BACK)
    def complete(self, task: Task, back: int) -> None:
        """A worker is done, under the epoch that is or one that was, and says so twice."""
        self.take_if_free(task)
        epoch = task.epoch - back
        if not task.leased or back:
            known = task.job in self.jobs and task.state == "SUCCEEDED" and not back
            self.run(self.harness.complete(task.id, epoch)) if known else self.fenced(
                self.harness.complete(task.id, epoch)
            )
            return
        self.run(self.harness.complete(task.id, epoch))
        task.state, task.outcomes[epoch], task.done = "SUCCEEDED", "SUCCEEDED", task.total
        self.run(self.harness.complete(task.id, epoch))
        job = task.job
        if all(each.state == "SUCCEEDED" for each in job.tasks):
            if task.stage == 0:
                rows = [row for row in self.run(self.harness.tasks(job.id)) if row.stage == 1]
                job.tasks += [Task(row.id, job, 1) for row in rows]
                assert len(rows) == 2
            else:
                job.state = "SUCCEEDED"

    @stateful.rule(data=st.data())
    def work_on_later_stage(self, data: st.DataObject) -> None:
        """Tasks that a stage brought forth are worked on as well."""
        later = [task for job in self.jobs for task in job.tasks if task.stage == 1]
        if not later:
            return
        task = data.draw(st.sampled_from(later))
        self.acquire(task, "worker-1")
        self.complete(task, data.draw(st.integers(0, 1)))

    @stateful.rule(task=tasks, back=BACK, retryable=st.booleans())
    def fail(self, task: Task, back: int, retryable: bool) -> None:
        """A worker fails, under the epoch that is or one that was, and says so twice."""
        self.take_if_free(task)
        epoch = task.epoch - back
        call = self.harness.fail(task.id, epoch, retryable=retryable)
        if task.leased and not back:
            self.expect_failure(task, "FAILED", retryable=retryable)
            will_retry = task.state == "READY"
            assert self.run(call) == will_retry
            assert self.run(self.harness.fail(task.id, epoch, retryable=not retryable)) == will_retry
        elif task.job in self.jobs and task.outcomes.get(epoch) == "FAILED":
            self.run(call)
        else:
            self.fenced(call)

    @stateful.rule(task=tasks, back=BACK)
    def release(self, task: Task, back: int) -> None:
        """A worker that is asked to stop gives the task back, and says so twice."""
        self.take_if_free(task)
        epoch = task.epoch - back
        if task.leased and not back:
            self.run(self.harness.release(task.id, epoch))
            task.state, task.attempts, task.outcomes[epoch] = "READY", max(0, task.attempts - 1), "RELEASED"
            self.run(self.harness.release(task.id, epoch))
        elif task.job in self.jobs and task.outcomes.get(epoch) == "RELEASED":
            self.run(self.harness.release(task.id, epoch))
        else:
            self.fenced(self.harness.release(task.id, epoch))

    @stateful.rule(task=tasks)
    def outdate(self, task: Task) -> None:
        """Time passes: the lease runs out."""
        self.run(self.harness.outdate(task.id))
        task.expired = task.state == "RUNNING"

    @stateful.rule(task=tasks, write=st.sampled_from(["extend", "complete", "fail", "release"]))
    def write_too_late(self, task: Task, write: str) -> None:
        """A worker whose lease ran out, though nobody took the task since."""
        self.take_if_free(task)
        if task.leased:
            self.outdate(task)
            self.fenced(getattr(self.harness, write)(task.id, task.epoch))

    @stateful.rule()
    def reconcile(self) -> None:
        """The reconciler takes back what ran out."""
        for job in self.jobs:
            for task in job.tasks:
                expired = task.state == "RUNNING" and task.expired
                assert self.run(self.harness.expire(task.id)) == expired
                if expired:
                    self.expect_failure(task, "LOST", retryable=True)

    @stateful.precondition(lambda self: len(self.jobs) > 1)
    @stateful.rule(task=tasks)
    def cancel(self, task: Task) -> None:
        """A user cancels the job, twice."""
        live = task.job in self.jobs and task.job.state == "ACTIVE"
        assert self.run(self.harness.cancel(task.job.id)) == live
        assert not self.run(self.harness.cancel(task.job.id))
        if live:
            self.expect_end(task.job, "CANCELLED")

    @stateful.precondition(lambda self: len(self.jobs) > 1)
    @stateful.rule(task=tasks)
    def delete(self, task: Task) -> None:
        """A user deletes the job, twice."""
        self.run(self.harness.delete(task.job.id))
        self.run(self.harness.delete(task.job.id))
        if task.job in self.jobs:
            self.jobs.remove(task.job)
        for each in task.job.tasks:
            each.state = "DELETED"

    def take_if_free(self, task: Task) -> None:
        """Most writes come from a worker that has the task; chance alone would seldom have it so."""
        if task.state == "READY":
            self.acquire(task, "worker-1")

    def expect_failure(self, task: Task, outcome: str, *, retryable: bool) -> None:
        task.outcomes[task.epoch] = outcome
        task.expired = False
        if retryable and task.attempts < MAX_ATTEMPTS:
            task.state = "READY"
            return
        task.state = "FAILED"
        self.expect_end(task.job, "FAILED")

    def expect_end(self, job: Job, state: str) -> None:
        job.state = state
        for task in job.tasks:
            if task.state in ("READY", "RUNNING"):
                if task.state == "RUNNING":
                    task.outcomes[task.epoch] = "CANCELLED"
                task.state, task.epoch = "CANCELLED", task.epoch + 1

    @stateful.invariant()
    def rows_are_as_they_should_be(self) -> None:
        """The database says what the machine thinks, and nothing else is in it."""
        jobs, tasks, attempts, outbox, records = self.run(self.read())
        assert {row.id: row.state for row in jobs} == {job.id: job.state for job in self.jobs}
        expected = [task for job in self.jobs for task in job.tasks]
        found = {row.id: (row.state, row.epoch, row.attempts, row.progress_done, row.resume_point) for row in tasks}
        assert found == {t.id: (t.state, t.epoch, t.attempts, t.done, t.resume_point) for t in expected}
        assert {(row.task_id, row.epoch): row.outcome for row in attempts} == {
            (task.id, epoch): outcome for task in expected for epoch, outcome in task.outcomes.items()
        }
        states = {row.resource: row for row in records}
        for row in jobs:
            (job,) = [each for each in self.jobs if each.id == row.id]
            record = states[row.resource]
            assert (record.state, record.published) == (job.record, int(job.state == "SUCCEEDED"))
            assert (row.finished_at is not None) == (job.state != "ACTIVE")
        self.nothing_is_left_behind(tasks, outbox)

    def nothing_is_left_behind(self, tasks: list[Any], outbox: list[Any]) -> None:
        """Every task that waits is dispatched; leases and dispatches of what ended are gone."""
        dispatches = {(row.task_id, row.dispatch) for row in outbox}
        ended = {task.id for job in self.jobs if job.state in FINAL for task in job.tasks}
        for row in tasks:
            if row.state == "READY":
                assert (row.id, row.dispatch) in dispatches or self.dispatched_elsewhere(row.id)
            assert (row.lease_expires_at is not None) == (row.state == "RUNNING")
        failed_or_cancelled = {t.id for job in self.jobs if job.state in ("FAILED", "CANCELLED") for t in job.tasks}
        assert not failed_or_cancelled & {task_id for task_id, _ in dispatches}
        assert {task_id for task_id, _ in dispatches} <= {row.id for row in tasks}
        assert ended | {t.id for job in self.jobs for t in job.tasks} == {row.id for row in tasks}

    def dispatched_elsewhere(self, task_id: uuid.UUID) -> bool:
        """Return whether a task's dispatch has left the outbox: here there is nothing else."""
        return False

    async def read(self) -> list[list[Any]]:
        tables = (TABLES.jobs, TABLES.tasks, TABLES.attempts, TABLES.outbox, job_harness.RECORDS)
        return [await self.harness.rows(sa.select(table)) for table in tables]
