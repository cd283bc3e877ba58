"""What a job is, free of any framework.

A job makes one resource. It has stages, each stage has tasks, and workers take tasks under a lease. When every
task of a stage has succeeded, the owner's handler names the next stage's tasks, or none, and then the job is done.
"""

import enum
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol, runtime_checkable

from polytok import disk_space
from services.jobs.failures import Failure

MAX_BACKOFF = timedelta(seconds=60)
_FULL_DISK_PATIENCE = 10
TOTAL_WEIGHT = 10**9
"""The work of a whole job, in the parts that the shares of its tasks are kept in."""


class JobState(enum.StrEnum):
    """Where a job stands; every state but ACTIVE is final."""

    ACTIVE = "ACTIVE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class TaskState(enum.StrEnum):
    """Where a task stands; READY and RUNNING are the two that go on."""

    READY = "READY"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Outcome(enum.StrEnum):
    """How an attempt went."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    LOST = "LOST"
    """The lease ran out: the worker died, hung or was cut off."""
    RELEASED = "RELEASED"
    """The worker gave the task back; this costs no attempt."""
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class NewTask:
    """A task to be made. `payload` is a serialized google.protobuf.Any.

    `weight` is its work and `ahead` the work that later stages will have with what it makes, both in one measure, bytes
    say, which each stage chooses for itself.
    """

    kind: str
    payload: bytes
    ordinal: int = 0
    weight: int = 0
    ahead: int = 0
    max_attempts: int | None = None
    resume_point: bytes = b""
    """Where an earlier job of the same resource left off."""


@dataclass(frozen=True)
class Job:
    """A job as its row has it."""

    id: uuid.UUID
    kind: str
    resource: str
    state: JobState
    error_reason: str | None
    error_message: str | None
    error: Mapping[str, Any]
    """A polytok.errors.v1.Error as JSON, or nothing."""
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class TaskResult:
    """What a task of a stage gave. `result` is a serialized google.protobuf.Any."""

    ordinal: int
    kind: str
    result: bytes


@dataclass(frozen=True)
class Attempt:
    """One lease on one task and how it ended."""

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
    """A right to work on a task for `ttl` from now, by the database's clock."""

    epoch: int
    ttl: timedelta
    payload: bytes
    kind: str
    resource: str
    resume_point: bytes
    attempt: int
    job_id: uuid.UUID


class Extension(NamedTuple):
    """A lease that goes on for `ttl` from now; `pause_requested`: the task is to pause."""

    ttl: timedelta
    pause_requested: bool


@dataclass(frozen=True)
class TaskProgress:
    """How far one running task is; `weight` is its part of WHOLE."""

    task_id: uuid.UUID
    epoch: int
    weight: int
    done: int
    total: int


@dataclass(frozen=True)
class JobProgress:
    """How far a job is: its tasks counted and weighed in parts of WHOLE, those that succeeded, and those that run."""

    state: JobState
    count: int
    weight: int
    succeeded_count: int
    succeeded_weight: int
    running: Sequence[TaskProgress]

    def percent(self) -> float:
        """From 0 to 100. Tasks without weight count only where none of the job's tasks has one."""
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
    """Return how long a task waits after its failed attempt number `attempt`: doubling, capped, with a jitter of 20 %.

    0 is the number of an attempt that moved the resume point. A full disk is given ten times as long: it takes
    somebody to make room.
    """
    patience = _FULL_DISK_PATIENCE if reason == disk_space.REASON else 1
    seconds = min(base * patience * 2.0 ** max(0, attempt - 1), MAX_BACKOFF.total_seconds())
    return timedelta(seconds=seconds * random.uniform(0.8, 1.2))  # noqa: S311  no secret


class JobHandler(Protocol):
    """The owning service's part in a job, one object for each job kind.

    Every method runs inside the transaction that makes the change, on `conn` (an SQLAlchemy AsyncConnection), with
    the job's row and the task's row locked. Locks are taken in the order job, task, the owner's own record: code
    that changes a record and its job together calls the store first. A method that raises undoes the change; a
    PolytokError out of `next_stage` or `succeeded` becomes the failure of the task that was completed.
    """

    async def started(self, conn: Any, job: Job) -> None:
        """The job's first lease was given."""

    async def next_stage(self, conn: Any, job: Job, stage: int, results: Sequence[TaskResult]) -> Sequence[NewTask]:
        """Return every task of `stage` (from 0) succeeded. The tasks of the next stage, or none: the job is done."""

    async def succeeded(self, conn: Any, job: Job, results: Sequence[TaskResult]) -> None:
        """Publish, with the results of the last stage.

        May do storage I/O, for at most one lease TTL: the lease is checked again after it, and when it ran out the
        transaction is undone and another attempt comes. What it did to storage must bear repeating.
        """

    async def failed(self, conn: Any, job: Job, failure: Failure) -> None:
        """The job ended badly."""

    async def cancelled(self, conn: Any, job: Job) -> None:
        """Somebody cancelled the job."""

    async def progressed(self, conn: Any, job: Job, percent: float) -> None:
        """A worker reported; `percent` is the whole job's."""


@runtime_checkable
class ReportingJobHandler(Protocol):
    """A handler that keeps what tasks report on the way."""

    async def record(self, conn: Any, job: Job, epoch: int, reports: Sequence[bytes]) -> None:
        """Keep reports (serialized google.protobuf.Any, in order) of the task that holds a lease under `epoch`.

        In the transaction that keeps the resume point, the task's row locked. The same reports may come again.
        """


@runtime_checkable
class ResumableJobHandler(Protocol):
    """A handler that can tell resume points apart; for any other, one that differs is further."""

    def is_further(self, before: bytes, after: bytes) -> bool:
        """Return whether `after` is further on than `before`, which is empty at the start of a task."""


@runtime_checkable
class PausableJobHandler(Protocol):
    """A handler whose jobs can stop for a while: the job ends, and another goes on from its resume point."""

    async def is_pause_requested(self, conn: Any, job: Job) -> bool:
        """Return whether the job is to stop."""

    async def paused(self, conn: Any, job: Job, resume_point: bytes) -> None:
        """The job ended, CANCELLED, because a pause was requested; `resume_point` is its task's last, empty if none."""
