"""Jobs in Postgres: every change of a job, as one step of a transaction that the caller opens.

Rows do the fencing: a writer locks the task, checks state, epoch and lease under that lock by the database's clock, and
writes. A lease is valid while the task is RUNNING, the epoch is the caller's, and it has not expired. Locks are taken
in the order job, task, the owner's record; an extension locks only the task and then the record.
"""

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.jobs import model
from services.jobs.canary import QueueHealth
from services.jobs.failures import Failure
from services.jobs.model import JobState, Outcome, TaskState
from services.jobs.outbox import Outbox
from services.jobs.repository import JobRepository, LockedTask, to_job
from services.jobs.tables import JobTables
from services.runtime import notifications
from services.runtime.settings import JobSettings
from services.runtime.telemetry import tracing

CHANNEL = "jobs"
"""The Postgres channel that wakes dispatchers, with payload `dispatch`, or `stop:` and a job's id."""
DISPATCH = "dispatch"
STOP = "stop:"

_OVERDUE_AT_ONCE = 16

_WORKER_LOST = Failure.of(
    errors.Unavailable("The worker stopped responding while it ran the task.", reason="WORKER_LOST", retryable=True)
)


class JobStore:
    """The jobs of one service. `owner` is the name by which workers reach its LeaseService."""

    def __init__(
        self, tables: JobTables, handlers: Mapping[str, model.JobHandler], settings: JobSettings, owner: str
    ) -> None:
        self.tables = tables
        self.owner = owner
        self.rows = JobRepository(tables)
        self.outbox = Outbox(tables)
        self.queue_health = QueueHealth()
        self._handlers = handlers
        self._settings = settings
        self._ttl = timedelta(seconds=settings.lease_ttl_seconds)

    async def create(
        self, conn: AsyncConnection, kind: str, resource: str, tasks: Sequence[model.NewTask]
    ) -> uuid.UUID:
        """Create a job with the tasks of its first stage. Once the transaction commits, it will run."""
        if kind not in self._handlers:
            raise ValueError(f"No handler for jobs of kind {kind!r}.")
        if not tasks:
            raise ValueError("A job needs at least one task.")
        job_id = await self.rows.insert_job(conn, kind, resource, tracing.inject())
        await self._add_stage(conn, job_id, 0, tasks)
        return job_id

    async def cancel(self, conn: AsyncConnection, job_id: uuid.UUID) -> bool:
        """End a job and fence its workers. Return False if it had already ended or does not exist."""
        job = await self.rows.lock_job(conn, job_id)
        if job is None or job.state != JobState.ACTIVE:
            return False
        await self._end(conn, job_id, JobState.CANCELLED)
        return True

    async def delete(self, conn: AsyncConnection, job_id: uuid.UUID) -> None:
        """Delete every row of a job, whatever its state, without calling its handler."""
        job = await self.rows.lock_job(conn, job_id)
        if job is None:
            return
        await self.outbox.clear(conn, job_id)
        await self.rows.delete_job(conn, job_id)
        if job.state == JobState.ACTIVE:
            await notifications.notify(conn, CHANNEL, f"{STOP}{job_id}")

    async def request_pause(self, conn: AsyncConnection, job_id: uuid.UUID) -> bool:
        """End a job whose pause is requested, if no worker has leased a task of it; return whether it did.

        Otherwise the workers are notified, and the job ends once they have released their tasks.
        """
        job = await self.rows.lock_job(conn, job_id)
        if job is None or job.state != JobState.ACTIVE:
            return False
        held = [await self.rows.lock(conn, task_id) for task_id in await self.rows.live(conn, job_id)]
        if any(each.leased for each in held if each):
            await notifications.notify(conn, CHANNEL, f"{STOP}{job_id}")
            return False
        await self._end_paused(conn, job, next((each.task.resume_point for each in held if each), b""))
        return True

    async def get(self, conn: AsyncConnection, job_id: uuid.UUID) -> model.Job | None:
        """Read a job."""
        row = await self.rows.job(conn, job_id)
        return to_job(row) if row else None

    async def attempts(self, conn: AsyncConnection, job_id: uuid.UUID) -> list[model.Attempt]:
        """Read every attempt of the job's tasks, oldest first."""
        return [
            model.Attempt(
                task_id=row.task_id,
                epoch=row.epoch,
                number=row.number,
                worker=row.worker,
                outcome=Outcome(row.outcome),
                error_reason=row.error_reason,
                error_message=row.error_message,
                error=row.error,
                started_at=row.started_at,
                ended_at=row.ended_at,
            )
            for row in await self.rows.attempts(conn, job_id)
        ]

    async def percent(self, conn: AsyncConnection, job_id: uuid.UUID) -> float:
        """Return the progress of a job from 0 to 100, according to its rows."""
        standing = await self.rows.job_progress(conn, job_id)
        return standing.percent() if standing else 0.0

    async def acquire(
        self, conn: AsyncConnection, task_id: uuid.UUID, worker: str, request_id: uuid.UUID
    ) -> model.Lease | None:
        """Lease a task to a worker; return None if it is not available. The caller commits in both cases."""
        held = await self.rows.lock(conn, task_id)
        if held is None:
            raise errors.NotFound(f"Task {task_id} does not exist; its job was deleted.")
        if held.leased:
            again = held.task.worker == worker and held.task.request_id == request_id
            return _lease(held.job, held.task, held.task.lease_expires_at - held.now) if again else None
        if held.task.state == TaskState.RUNNING:
            if not await self._fail(conn, held, _WORKER_LOST, Outcome.LOST):
                return None
        elif held.task.state != TaskState.READY or held.task.not_before > held.now:
            return None
        task = await self.rows.lease(conn, held.task, worker, request_id, self._ttl)
        if held.job.started_at is None:
            await self.rows.start_job(conn, held.job.id)
            await self._handler(held.job).started(conn, to_job(held.job))
        return _lease(held.job, task, self._ttl)

    async def extend(
        self,
        conn: AsyncConnection,
        task_id: uuid.UUID,
        epoch: int,
        progress: tuple[int, int] | None = None,
        resume_point: bytes = b"",
        reports: Sequence[bytes] = (),
    ) -> model.Extension:
        """Extend a lease; `progress` is (done, total). `reports` are stored with the resume point, or not at all."""
        task = await self.rows.lock_task(conn, task_id)
        changes: dict[str, Any] = {}
        if task is not None and progress is not None:
            # A late report never decreases progress.
            changes = {"progress_done": max(task.progress_done, progress[0]), "progress_total": progress[1]}
        row = await self.rows.job(conn, task.job_id) if task is not None else None
        if resume_point and row is not None:
            changes |= self._resume_point_changes(row, task, resume_point)
        if task is None or not await self.rows.extend(conn, task_id, epoch, self._ttl, changes):
            raise lease_lost_error(task_id, epoch)
        assert row is not None
        if reports:
            await self._handler(row).record(conn, to_job(row), epoch, reports)
        await self._progressed(conn, task.job_id)
        return model.Extension(self._ttl, await self._is_pause_requested(conn, row))

    async def complete(self, conn: AsyncConnection, task_id: uuid.UUID, epoch: int, result: bytes) -> None:
        """Complete a task and, with the last one of a stage, the stage or the job."""
        held = await self.rows.lock(conn, task_id)
        if held and held.task.state == TaskState.SUCCEEDED and held.task.epoch == epoch:
            return
        if held is None or not held.leased or held.task.epoch != epoch:
            raise lease_lost_error(task_id, epoch)
        await self.rows.succeed(conn, task_id, result, self._ttl)
        await self.rows.end_attempt(conn, held.task, Outcome.SUCCEEDED)
        await self._advance(conn, held)
        # The handler may have taken long: its work counts only if the lease is still valid.
        if not await self.rows.close(conn, task_id):
            raise lease_lost_error(task_id, epoch)

    async def fail(self, conn: AsyncConnection, task_id: uuid.UUID, epoch: int, failure: Failure) -> bool:
        """Fail an attempt; return whether there will be another."""
        held = await self.rows.lock(conn, task_id)
        if held and held.leased and held.task.epoch == epoch:
            return await self._fail(conn, held, failure, Outcome.FAILED)
        before = await self.rows.attempt(conn, task_id, epoch)
        if before is None or before.outcome != Outcome.FAILED:
            raise lease_lost_error(task_id, epoch)
        return bool(before.will_retry)

    async def release(self, conn: AsyncConnection, task_id: uuid.UUID, epoch: int, resume_point: bytes = b"") -> None:
        """Release an unfinished task, available immediately; the attempt does not count."""
        held = await self.rows.lock(conn, task_id)
        if held is None or not held.leased or held.task.epoch != epoch:
            before = await self.rows.attempt(conn, task_id, epoch)
            if before is None or before.outcome != Outcome.RELEASED:
                raise lease_lost_error(task_id, epoch)
            return
        changes: dict[str, Any] = {"attempts": max(0, held.task.attempts - 1)}
        if resume_point:
            changes |= self._resume_point_changes(held.job, held.task, resume_point)
        pause_requested = await self._is_pause_requested(conn, held.job)
        await self.rows.end_attempt(conn, held.task, Outcome.RELEASED, will_retry=not pause_requested)
        if pause_requested:
            await self._end_paused(conn, held.job, resume_point or held.task.resume_point)
            return
        await self.rows.requeue(conn, held.task, timedelta(0), changes)
        await self.wake_dispatcher(conn)

    async def expire(self, conn: AsyncConnection, task_id: uuid.UUID) -> bool:
        """End the lease of a task if it has expired; return whether it had."""
        held = await self.rows.lock(conn, task_id)
        if held is None or held.leased or held.task.state != TaskState.RUNNING:
            return False
        await self._fail(conn, held, _WORKER_LOST, Outcome.LOST)
        return True

    async def overdue(
        self, conn: AsyncConnection, kinds: Sequence[str], *, queue_unavailable: bool = False
    ) -> Sequence[uuid.UUID]:
        """Return tasks of these kinds that have waited too long for a worker, the longest-waiting first.

        Return all that wait if the queue is unavailable to the asking worker or known not to work.
        """
        away = queue_unavailable or bool(self.queue_health.trouble)
        waited = timedelta(0) if away else timedelta(seconds=self._settings.redispatch_seconds)
        return [row.id for row in await self.outbox.overdue(conn, kinds, waited, _OVERDUE_AT_ONCE)]

    async def wake_dispatcher(self, conn: AsyncConnection) -> None:
        """Wake the dispatchers as soon as the transaction commits."""
        await notifications.notify(conn, CHANNEL, DISPATCH)

    def _resume_point_changes(self, job: Any, task: Any, resume_point: bytes) -> dict[str, Any]:
        """Return the columns that change with a resume point: an attempt that moved it restarts the attempt count."""
        moved = self._handler(job).is_further(task.resume_point, resume_point)
        return {"resume_point": resume_point, **({"attempts": 0} if moved else {})}

    def _handler(self, job: Any) -> model.JobHandler:
        return self._handlers[job.kind]

    async def _add_stage(
        self, conn: AsyncConnection, job_id: uuid.UUID, stage: int, tasks: Sequence[model.NewTask]
    ) -> None:
        await self.rows.insert_tasks(conn, job_id, stage, tasks, self._settings.max_attempts)
        await self.wake_dispatcher(conn)

    async def _progressed(self, conn: AsyncConnection, job_id: uuid.UUID) -> None:
        row = await self.rows.job(conn, job_id)
        standing = await self.rows.job_progress(conn, job_id)
        assert row is not None
        assert standing is not None
        await self._handler(row).progressed(conn, to_job(row), standing.percent())

    async def _is_pause_requested(self, conn: AsyncConnection, row: sa.Row[Any]) -> bool:
        return await self._handler(row).is_pause_requested(conn, to_job(row))

    async def _end_paused(self, conn: AsyncConnection, row: sa.Row[Any], resume_point: bytes) -> None:
        """End a job whose pause is requested, with all its tasks."""
        ended = await self._close(conn, row.id, JobState.CANCELLED)
        await self._handler(row).paused(conn, to_job(ended), resume_point)

    async def _advance(self, conn: AsyncConnection, held: LockedTask) -> None:
        job, stage = held.job, held.task.stage
        if await self.rows.unfinished(conn, job.id, stage):
            await self._progressed(conn, job.id)
            return
        results = await self.rows.results(conn, job.id, stage)
        tasks = await self._handler(job).next_stage(conn, to_job(job), stage, results)
        if tasks:
            await self._add_stage(conn, job.id, stage + 1, tasks)
            await self._progressed(conn, job.id)
            return
        ended = await self.rows.end_job(conn, job.id, JobState.SUCCEEDED)
        await self._handler(job).succeeded(conn, to_job(ended), results)

    async def _fail(self, conn: AsyncConnection, held: LockedTask, failure: Failure, outcome: Outcome) -> bool:
        task = held.task
        retry = failure.retryable and task.attempts < task.max_attempts
        if retry and await self._is_pause_requested(conn, held.job):
            await self.rows.end_attempt(conn, task, outcome, failure, will_retry=False)
            await self._end_paused(conn, held.job, task.resume_point)
            return False
        await self.rows.end_attempt(conn, task, outcome, failure, will_retry=retry)
        if retry:
            wait = model.backoff(self._settings.backoff_seconds, task.attempts, failure.reason)
            await self.rows.requeue(conn, task, wait)
            await self.wake_dispatcher(conn)
            return True
        if failure.retryable and task.max_attempts > 1:
            further = " without progress" if task.resume_point else ""
            message = f"{failure.message} Gave up after {task.attempts} attempts{further}."
            failure = dataclasses.replace(failure, message=message)
        await self.rows.fail_task(conn, task.id)
        await self._end(conn, held.job.id, JobState.FAILED, failure)
        return False

    async def _end(
        self, conn: AsyncConnection, job_id: uuid.UUID, state: JobState, failure: Failure | None = None
    ) -> None:
        job = await self._close(conn, job_id, state, failure)
        if failure is None:
            await self._handler(job).cancelled(conn, to_job(job))
        else:
            await self._handler(job).failed(conn, to_job(job), failure)

    async def _close(
        self, conn: AsyncConnection, job_id: uuid.UUID, state: JobState, failure: Failure | None = None
    ) -> sa.Row[Any]:
        await self.rows.cancel_tasks(conn, job_id)
        await self.outbox.clear(conn, job_id)
        job = await self.rows.end_job(conn, job_id, state, failure)
        await notifications.notify(conn, CHANNEL, f"{STOP}{job_id}")
        return job


def _lease(job: sa.Row[Any], task: sa.Row[Any], ttl: timedelta) -> model.Lease:
    return model.Lease(
        epoch=task.epoch,
        ttl=ttl,
        payload=task.payload,
        kind=task.kind,
        resource=job.resource,
        resume_point=task.resume_point,
        attempt=task.attempts,
        job_id=job.id,
    )


def lease_lost_error(task_id: uuid.UUID, epoch: int) -> errors.Aborted:
    """Return the error for a worker whose lease is no longer valid."""
    return errors.Aborted(
        f"Epoch {epoch} of task {task_id} no longer holds a lease. Stop working on it.",
        metadata={"task": str(task_id), "epoch": str(epoch)},
    )
