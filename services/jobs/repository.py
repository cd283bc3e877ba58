"""The SQL of jobs, one statement per method. The store combines the statements."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.jobs import progress_weights
from services.jobs.failures import Failure
from services.jobs.model import Job, JobProgress, JobState, NewTask, Outcome, TaskProgress, TaskResult, TaskState
from services.jobs.outbox import any_of
from services.jobs.tables import JobTables

KEPT_ATTEMPTS = 100
"""How many attempts of a task are kept: the newest ones."""
_CLOCK = sa.func.clock_timestamp()
_LIVE = (TaskState.READY.value, TaskState.RUNNING.value)


@dataclass(frozen=True)
class LockedTask:
    """A task whose own row and job row are locked, and the database's clock after that."""

    job: sa.Row[Any]
    task: sa.Row[Any]
    now: datetime

    @property
    def leased(self) -> bool:
        """Whether a worker has leased the task now."""
        return bool(self.task.state == TaskState.RUNNING and self.task.lease_expires_at > self.now)


def to_job(row: sa.Row[Any]) -> Job:
    """Return the job of a row."""
    return Job(
        id=row.id,
        kind=row.kind,
        resource=row.resource,
        state=JobState(row.state),
        error_reason=row.error_reason,
        error_message=row.error_message,
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


class JobRepository:
    """Statements on jobs, tasks and attempts."""

    def __init__(self, tables: JobTables) -> None:
        self._jobs, self._tasks = tables.jobs, tables.tasks
        self._attempts, self._outbox = tables.attempts, tables.outbox

    async def lock_job(self, conn: AsyncConnection, job_id: uuid.UUID) -> sa.Row[Any] | None:
        """Lock a job; return None if it does not exist."""
        return (await conn.execute(sa.select(self._jobs).where(self._jobs.c.id == job_id).with_for_update())).first()

    async def lock(self, conn: AsyncConnection, task_id: uuid.UUID) -> LockedTask | None:
        """Lock a task's job and then the task; return None if it does not exist."""
        owner = sa.select(self._tasks.c.job_id).where(self._tasks.c.id == task_id).scalar_subquery()
        job = (await conn.execute(sa.select(self._jobs).where(self._jobs.c.id == owner).with_for_update())).first()
        task = await self.lock_task(conn, task_id) if job else None
        if job is None or task is None:
            return None
        # Read last: the clock must be read after waiting for the locks.
        return LockedTask(job, task, (await conn.execute(sa.select(_CLOCK))).scalar_one())

    async def lock_task(self, conn: AsyncConnection, task_id: uuid.UUID) -> sa.Row[Any] | None:
        """Lock a task alone, for writes that touch nothing else of its job."""
        return (await conn.execute(sa.select(self._tasks).where(self._tasks.c.id == task_id).with_for_update())).first()

    async def job(self, conn: AsyncConnection, job_id: uuid.UUID) -> sa.Row[Any] | None:
        """Read a job."""
        return (await conn.execute(sa.select(self._jobs).where(self._jobs.c.id == job_id))).first()

    async def attempts(self, conn: AsyncConnection, job_id: uuid.UUID) -> Sequence[sa.Row[Any]]:
        """Read every attempt of a job, oldest first."""
        query = sa.select(self._attempts).join(self._tasks, self._tasks.c.id == self._attempts.c.task_id)
        query = query.where(self._tasks.c.job_id == job_id).order_by(self._attempts.c.started_at)
        return (await conn.execute(query)).all()

    async def attempt(self, conn: AsyncConnection, task_id: uuid.UUID, epoch: int) -> sa.Row[Any] | None:
        """Read one attempt."""
        table = self._attempts
        return (await conn.execute(sa.select(table).where(table.c.task_id == task_id, table.c.epoch == epoch))).first()

    async def insert_job(self, conn: AsyncConnection, kind: str, resource: str, trace: dict[str, str]) -> uuid.UUID:
        """Create a job without tasks."""
        job_id = uuid.uuid4()
        await conn.execute(self._jobs.insert().values(id=job_id, kind=kind, resource=resource, trace=trace))
        return job_id

    async def insert_tasks(
        self, conn: AsyncConnection, job_id: uuid.UUID, stage: int, tasks: Sequence[NewTask], max_attempts: int
    ) -> None:
        """Create the tasks of a stage, each with its share of the job, and their first outbox rows."""
        ids = [uuid.uuid4() for _ in tasks]
        weights = progress_weights.stage_weights(tasks, await self._weight(conn, job_id) if stage else 0)
        values = [
            {
                "id": task_id,
                "job_id": job_id,
                "stage": stage,
                "ordinal": task.ordinal,
                "kind": task.kind,
                "payload": task.payload,
                "weight": weight,
                "max_attempts": task.max_attempts or max_attempts,
                "resume_point": task.resume_point,
            }
            for task_id, task, weight in zip(ids, tasks, weights, strict=True)
        ]
        await conn.execute(self._tasks.insert(), values)
        await conn.execute(self._outbox.insert(), [{"task_id": task_id, "dispatch": 1} for task_id in ids])
        await conn.execute(self._jobs.update().where(self._jobs.c.id == job_id).values(stage=stage))

    async def start_job(self, conn: AsyncConnection, job_id: uuid.UUID) -> None:
        """Record the job's first lease."""
        await conn.execute(self._jobs.update().where(self._jobs.c.id == job_id).values(started_at=_CLOCK))

    async def lease(
        self, conn: AsyncConnection, task: sa.Row[Any], worker: str, request_id: uuid.UUID, ttl: timedelta
    ) -> sa.Row[Any]:
        """Lease the task to a worker under the next epoch, open the attempt, and return the task's row."""
        epoch, number = task.epoch + 1, task.attempts + 1
        values: dict[str, Any] = {
            "state": TaskState.RUNNING.value,
            "epoch": epoch,
            "attempts": number,
            "worker": worker,
            "request_id": request_id,
            "lease_expires_at": _CLOCK + ttl,
        }
        if not task.resume_point:
            values |= {"progress_done": 0, "progress_total": 0}
        given = self._tasks.update().where(self._tasks.c.id == task.id).values(values).returning(self._tasks)
        row: sa.Row[Any] = (await conn.execute(given)).one()
        attempt = {"task_id": task.id, "epoch": epoch, "number": number, "worker": worker}
        await conn.execute(self._attempts.insert().values(attempt))
        if epoch > KEPT_ATTEMPTS:
            # A task that progresses each time may be retried without limit.
            table = self._attempts
            old = table.c.task_id == task.id, table.c.epoch <= epoch - KEPT_ATTEMPTS
            await conn.execute(table.delete().where(*old))
        return row

    async def extend(
        self, conn: AsyncConnection, task_id: uuid.UUID, epoch: int, ttl: timedelta, changes: dict[str, Any]
    ) -> bool:
        """Extend a lease that is valid now and store `changes`; return whether it was valid."""
        return await self._fenced(conn, task_id, epoch, lease_expires_at=_CLOCK + ttl, **changes)

    async def succeed(self, conn: AsyncConnection, task_id: uuid.UUID, result: bytes, ttl: timedelta) -> None:
        """Complete a task. Its lease lasts `ttl` longer, so that `close` can tell whether publishing took too long."""
        done = sa.func.greatest(self._tasks.c.progress_done, self._tasks.c.progress_total)
        await self._change(
            conn,
            task_id,
            state=TaskState.SUCCEEDED.value,
            result=result,
            finished_at=_CLOCK,
            progress_done=done,
            lease_expires_at=_CLOCK + ttl,
        )

    async def close(self, conn: AsyncConnection, task_id: uuid.UUID) -> bool:
        """Remove the lease of a succeeded task; return whether it was still valid."""
        query = self._tasks.update().where(self._tasks.c.id == task_id, self._tasks.c.lease_expires_at > _CLOCK)
        return (await conn.execute(query.values(lease_expires_at=None))).rowcount == 1

    async def requeue(
        self, conn: AsyncConnection, task: sa.Row[Any], delay: timedelta, changes: dict[str, Any] | None = None
    ) -> None:
        """Make a task READY again, due after `delay`."""
        due = (await conn.execute(sa.select(_CLOCK + delay))).scalar_one()
        await self._change(
            conn,
            task.id,
            state=TaskState.READY.value,
            not_before=due,
            dispatch=task.dispatch + 1,
            worker=None,
            request_id=None,
            lease_expires_at=None,
            **(changes or {}),
        )
        await conn.execute(self._outbox.insert().values(task_id=task.id, dispatch=task.dispatch + 1, due_at=due))

    async def fail_task(self, conn: AsyncConnection, task_id: uuid.UUID) -> None:
        """Fail a task."""
        await self._change(conn, task_id, state=TaskState.FAILED.value, finished_at=_CLOCK, lease_expires_at=None)

    async def end_attempt(
        self,
        conn: AsyncConnection,
        task: sa.Row[Any],
        outcome: Outcome,
        failure: Failure | None = None,
        *,
        will_retry: bool | None = None,
    ) -> None:
        """Record the outcome of a task's current attempt."""
        table = self._attempts
        await conn.execute(
            table.update()
            .where(table.c.task_id == task.id, table.c.epoch == task.epoch)
            .values(
                outcome=outcome.value,
                will_retry=will_retry,
                **_error_columns(failure),
                ended_at=_CLOCK,
            )
        )

    async def end_job(
        self, conn: AsyncConnection, job_id: uuid.UUID, state: JobState, failure: Failure | None = None
    ) -> sa.Row[Any]:
        """End a job and return its row."""
        values = {
            "state": state.value,
            "finished_at": _CLOCK,
        } | _error_columns(failure)
        query = self._jobs.update().where(self._jobs.c.id == job_id).values(values).returning(self._jobs)
        row: sa.Row[Any] = (await conn.execute(query)).one()
        return row

    async def cancel_tasks(self, conn: AsyncConnection, job_id: uuid.UUID) -> None:
        """End every live task of a job and increment its epoch, so that no worker can write any more."""
        ended = (
            self._tasks.update()
            .where(self._tasks.c.job_id == job_id, self._tasks.c.state.in_(_LIVE))
            .values(
                state=TaskState.CANCELLED.value,
                epoch=self._tasks.c.epoch + 1,
                finished_at=_CLOCK,
                lease_expires_at=None,
            )
            .returning(self._tasks.c.id)
        )
        ids = (await conn.execute(ended)).scalars().all()
        table = self._attempts
        await conn.execute(
            table.update()
            .where(table.c.task_id == any_of(ids))
            .where(table.c.outcome == Outcome.RUNNING.value)
            .values(outcome=Outcome.CANCELLED.value, ended_at=_CLOCK)
        )

    async def delete_job(self, conn: AsyncConnection, job_id: uuid.UUID) -> None:
        """Delete a job with its tasks and attempts."""
        await conn.execute(self._jobs.delete().where(self._jobs.c.id == job_id))

    async def unfinished(self, conn: AsyncConnection, job_id: uuid.UUID, stage: int) -> bool:
        """Return whether a stage has tasks that have not succeeded yet."""
        query = sa.select(self._tasks.c.id).where(self._tasks.c.job_id == job_id, self._tasks.c.stage == stage)
        query = query.where(self._tasks.c.state != TaskState.SUCCEEDED.value).limit(1)
        return (await conn.execute(query)).first() is not None

    async def live(self, conn: AsyncConnection, job_id: uuid.UUID) -> Sequence[uuid.UUID]:
        """Return the unfinished tasks of a job."""
        table = self._tasks
        query = sa.select(table.c.id).where(table.c.job_id == job_id, table.c.state.in_(_LIVE))
        return (await conn.execute(query.order_by(table.c.ordinal))).scalars().all()

    async def results(self, conn: AsyncConnection, job_id: uuid.UUID, stage: int) -> list[TaskResult]:
        """Return the results of a stage's tasks, by kind and ordinal."""
        table = self._tasks
        query = sa.select(table.c.ordinal, table.c.kind, table.c.result)
        query = query.where(table.c.job_id == job_id, table.c.stage == stage).order_by(table.c.kind, table.c.ordinal)
        return [TaskResult(row.ordinal, row.kind, row.result) for row in await conn.execute(query)]

    async def job_progress(self, conn: AsyncConnection, job_id: uuid.UUID) -> JobProgress | None:
        """Count and weigh the tasks of a job; return None if it does not exist."""
        table = self._tasks
        job = await self.job(conn, job_id)
        if job is None:
            return None
        well = table.c.state == TaskState.SUCCEEDED.value
        weight = sa.func.coalesce(sa.func.sum(table.c.weight), 0)
        sums = sa.select(
            sa.func.count(),
            weight,
            sa.func.count().filter(well),
            sa.func.coalesce(sa.func.sum(table.c.weight).filter(well), 0),
        ).where(table.c.job_id == job_id)
        counted = (await conn.execute(sums)).one()
        shares = sa.select(table.c.id, table.c.epoch, table.c.weight, table.c.progress_done, table.c.progress_total)
        shares = shares.where(table.c.job_id == job_id, table.c.state == TaskState.RUNNING.value)
        running = [TaskProgress(*row) for row in await conn.execute(shares)]
        count, weight_sum, good, good_weight = (int(number) for number in counted)
        return JobProgress(JobState(job.state), count, weight_sum, good, good_weight, running)

    async def _weight(self, conn: AsyncConnection, job_id: uuid.UUID) -> int:
        """Return the sum of the shares of all tasks of a job."""
        weight = sa.func.coalesce(sa.func.sum(self._tasks.c.weight), 0)
        return int((await conn.execute(sa.select(weight).where(self._tasks.c.job_id == job_id))).scalar_one())

    async def backlog(self, conn: AsyncConnection) -> Sequence[tuple[str, str, int]]:
        """Return kind, state and count of unfinished tasks; each state has its own index."""
        table = self._tasks
        parts = [
            sa.select(table.c.kind, sa.literal(state).label("state"), sa.func.count())
            .where(table.c.state == sa.literal_column(f"'{state}'"))
            .group_by(table.c.kind)
            for state in _LIVE
        ]
        return [(kind, state, number) for kind, state, number in await conn.execute(sa.union_all(*parts))]

    async def expired(self, conn: AsyncConnection, limit: int) -> Sequence[uuid.UUID]:
        """Return tasks whose lease has expired."""
        table = self._tasks
        query = sa.select(table.c.id).where(
            table.c.state == TaskState.RUNNING.value, table.c.lease_expires_at <= _CLOCK
        )
        return (await conn.execute(query.order_by(table.c.lease_expires_at).limit(limit))).scalars().all()

    async def _change(self, conn: AsyncConnection, task_id: uuid.UUID, **values: Any) -> None:
        await conn.execute(self._tasks.update().where(self._tasks.c.id == task_id).values(values))

    async def _fenced(self, conn: AsyncConnection, task_id: uuid.UUID, epoch: int, **values: Any) -> bool:
        table = self._tasks
        query = table.update().where(table.c.id == task_id, table.c.epoch == epoch)
        query = query.where(table.c.state == TaskState.RUNNING.value, table.c.lease_expires_at > _CLOCK)
        return (await conn.execute(query.values(values))).rowcount == 1


def _error_columns(failure: Failure | None) -> dict[str, Any]:
    return failure.columns() if failure else {"error_reason": None, "error_message": None, "error": {}}
