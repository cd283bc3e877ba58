"""The job model, free of any framework.

A job produces one resource. It has stages, each stage has tasks, and workers take tasks under a lease. When every task
of a stage has succeeded, the owner's handler returns the tasks of the next stage, or none if the job is done.
"""

import enum
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from polytok import disk_space, errors
from services.jobs.failures import Failure

MAX_BACKOFF = timedelta(seconds=60)
_FULL_DISK_PATIENCE = 10
TOTAL_WEIGHT = 10**9
"""The work of a whole job, in the units of its tasks' shares."""


class JobState(enum.StrEnum):
    """State of a job; every state but ACTIVE is final."""

    ACTIVE = "ACTIVE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class TaskState(enum.StrEnum):
    """State of a task; every state but READY and RUNNING is final."""

    READY = "READY"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Outcome(enum.StrEnum):
    """Outcome of an attempt."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    LOST = "LOST"
    """The lease expired: the worker died, hung or was cut off."""
    RELEASED = "RELEASED"
    """The worker released the task; this costs no attempt."""
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class NewTask:
    """A task to create. `payload` is a serialized google.protobuf.Any.

    `weight` is its own work and `ahead` the work that it causes in later stages. Both have the same unit, such as
    bytes, which each stage chooses.
    """

    kind: str
    payload: bytes
    ordinal: int = 0
    weight: int = 0
    ahead: int = 0
    max_attempts: int | None = None
    resume_point: bytes = b""
    """The point that an earlier job of the same resource reached."""


@dataclass(frozen=True)
class Job:
    """A job, as in its row."""

    id: uuid.UUID
    kind: str
    resource: str
    state: JobState
    error_reason: str | None
    error_message: str | None
    error: Mapping[str, Any]
    """A polytok.errors.v1.Error as JSON, or empty."""
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class TaskResult:
    """Result of a task. `result` is a serialized google.protobuf.Any."""

    ordinal: int
    kind: str
    result: bytes


@dataclass(frozen=True)
class Attempt:
    """One lease on one task, and how it ended."""

    task_id: uuid.UUID
    epoch: int
    number: int
    worker: str
    outcome: Outcome
    error_reason: str | None
    error_message: str | None
    error: Mapping[str, Any]
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class Lease:
    """The right to work on a task for `ttl` from now, by the database's clock."""

    epoch: int
    ttl: timedelta
    payload: bytes
    kind: str
    resource: str
    resume_point: bytes
    attempt: int
    job_id: uuid.UUID


class Extension(NamedTuple):
    """A lease extended by `ttl` from now; `pause_requested` asks the task to pause."""

    ttl: timedelta
    pause_requested: bool


@dataclass(frozen=True)
class TaskProgress:
    """Progress of one running task; `weight` is its part of WHOLE."""

    task_id: uuid.UUID
    epoch: int
    weight: int
    done: int
    total: int


@dataclass(frozen=True)
class JobProgress:
    """Progress of a job: counts and weights, in parts of WHOLE, of all tasks, succeeded ones and running ones."""

    state: JobState
    count: int
    weight: int
    succeeded_count: int
    succeeded_weight: int
    running: Sequence[TaskProgress]

    def percent(self) -> float:
        """Percentage from 0 to 100. Tasks without weight count only if no task of the job has one."""
        if self.state is JobState.SUCCEEDED:
            return 100.0
        weighed = self.weight > 0
        whole = max(TOTAL_WEIGHT, self.weight) if weighed else self.count
        done = float(self.succeeded_weight if weighed else self.succeeded_count)
        for share in self.running:
            if share.total > 0:
                done += (share.weight if weighed else 1) * min(1.0, share.done / share.total)
        return min(100.0, 100.0 * done / whole) if whole else 0.0


def backoff(base: float, attempt: int, reason: str = "") -> timedelta:
    """Return the delay after failed attempt number `attempt`: doubling, capped, with a jitter of 20 %.

    0 is the number of an attempt that moved the resume point. After a full disk the delay is ten times as long, because
    someone has to free space.
    """
    patience = _FULL_DISK_PATIENCE if reason == disk_space.REASON else 1
    seconds = min(base * patience * 2.0 ** max(0, attempt - 1), MAX_BACKOFF.total_seconds())
    return timedelta(seconds=seconds * random.uniform(0.8, 1.2))  # noqa: S311  no secret


class JobHandler:
    """The owning service's part in a job: one object per job kind.

    Every method runs inside the transaction that makes the change, on `conn` (an SQLAlchemy AsyncConnection), with the
    rows of the job and the task locked. Locks are taken in the order job, task, the owner's own record: code that
    changes a record and its job together calls the store first. A method that raises rolls the change back; a
    PolytokError from `next_stage` or `succeeded` becomes the failure of the completed task.

    A handler is a subclass, and every method but `succeeded` is optional.
    """

    async def started(self, conn: Any, job: Job) -> None:
        """Handle the job's first lease."""

    async def next_stage(self, conn: Any, job: Job, stage: int, results: Sequence[TaskResult]) -> Sequence[NewTask]:
        """Return the tasks of the stage after `stage` (from 0), all of which succeeded; none ends the job."""
        return ()

    async def succeeded(self, conn: Any, job: Job, results: Sequence[TaskResult]) -> None:
        """Publish, with the results of the last stage.

        May do storage I/O, for at most one lease TTL: the lease is checked again afterwards, and if it has expired, the
        transaction is rolled back and another attempt follows. Effects on storage must therefore be idempotent.
        """
        raise NotImplementedError

    async def failed(self, conn: Any, job: Job, failure: Failure) -> None:
        """Handle the failure of the job."""

    async def cancelled(self, conn: Any, job: Job) -> None:
        """Handle the cancellation of the job."""

    async def progressed(self, conn: Any, job: Job, percent: float) -> None:
        """Handle a worker's report; `percent` is the progress of the whole job."""

    async def record(self, conn: Any, job: Job, epoch: int, reports: Sequence[bytes]) -> None:
        """Store reports (serialized google.protobuf.Any, in order) of the task leased under `epoch`.

        Runs in the transaction that stores the resume point, with the task's row locked. Reports may arrive twice.
        """
        raise errors.InvalidArgument(
            f"Jobs of kind {job.kind!r} do not accept reports: the worker and the owning service run different "
            "versions. Upgrade the older one.",
            reason="MESSAGE_INVALID",
        )

    def is_further(self, before: bytes, after: bytes) -> bool:
        """Return whether the resume point `after` is further than `before`, which is empty at the start of a task."""
        return after != before

    async def is_pause_requested(self, conn: Any, job: Job) -> bool:
        """Return whether a pause is requested: the job ends, and another one continues from its resume point."""
        return False

    async def paused(self, conn: Any, job: Job, resume_point: bytes) -> None:
        """Handle the end of a paused job, CANCELLED; `resume_point` is the last one of its task, empty if none."""
