"""The four tables of jobs, as part of the owning service's metadata.

All times are the database's. Lease checks use clock_timestamp(), not now(), which is constant in a transaction.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from services.jobs.model import JobState, Outcome, TaskState


def _states(column: str, states: type[JobState] | type[TaskState] | type[Outcome]) -> str:
    return f"{column} IN ({', '.join(repr(str(state)) for state in states)})"


def _time(name: str, *, nullable: bool = True) -> "sa.Column[datetime]":
    default = None if nullable else sa.text("clock_timestamp()")
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def _number(name: str, default: int = 0, kind: type[sa.Integer] = sa.BigInteger) -> "sa.Column[int]":
    return sa.Column(name, kind, nullable=False, server_default=str(default))


class JobTables:
    """`jobs`, `job_tasks`, `job_attempts` and `job_outbox` in a service's schema."""

    def __init__(self, metadata: sa.MetaData, schema: str | None = None) -> None:
        prefix = f"{schema}." if schema else ""
        self.jobs = sa.Table(
            "jobs",
            metadata,
            sa.Column("id", sa.Uuid, primary_key=True),
            sa.Column("kind", sa.Text, nullable=False),
            sa.Column("resource", sa.Text, nullable=False),
            sa.Column("state", sa.Text, nullable=False, server_default=JobState.ACTIVE.value),
            _number("stage", kind=sa.Integer),
            sa.Column("trace", postgresql.JSONB, nullable=False, server_default="{}"),
            sa.Column("error_reason", sa.Text),
            sa.Column("error_message", sa.Text),
            sa.Column("error", postgresql.JSONB, nullable=False, server_default="{}"),
            _time("created_at", nullable=False),
            _time("started_at"),
            _time("finished_at"),
            sa.CheckConstraint(_states("state", JobState), name="jobs_state_check"),
            sa.Index("jobs_resource", "resource"),
            schema=schema,
        )
        self.tasks = sa.Table(
            "job_tasks",
            metadata,
            sa.Column("id", sa.Uuid, primary_key=True),
            sa.Column("job_id", sa.Uuid, sa.ForeignKey(f"{prefix}jobs.id", ondelete="CASCADE"), nullable=False),
            _number("stage", kind=sa.Integer),
            _number("ordinal", kind=sa.Integer),
            sa.Column("kind", sa.Text, nullable=False),
            sa.Column("payload", sa.LargeBinary, nullable=False),
            # The task's share of the job, in parts of model.WHOLE.
            _number("weight"),
            sa.Column("state", sa.Text, nullable=False, server_default=TaskState.READY.value),
            _number("epoch"),
            _number("attempts", kind=sa.Integer),
            sa.Column("max_attempts", sa.Integer, nullable=False),
            _number("dispatch", 1),
            _time("not_before", nullable=False),
            sa.Column("worker", sa.Text),
            sa.Column("request_id", sa.Uuid),
            _time("lease_expires_at"),
            _number("progress_done"),
            _number("progress_total"),
            sa.Column("resume_point", sa.LargeBinary, nullable=False, server_default=""),
            sa.Column("result", sa.LargeBinary),
            _time("created_at", nullable=False),
            _time("finished_at"),
            sa.UniqueConstraint("job_id", "stage", "kind", "ordinal", name="job_tasks_place_key"),
            sa.CheckConstraint(_states("state", TaskState), name="job_tasks_state_check"),
            sa.Index("job_tasks_leases", "lease_expires_at", postgresql_where=sa.text("state = 'RUNNING'")),
            sa.Index("job_tasks_ready", "not_before", postgresql_where=sa.text("state = 'READY'")),
            schema=schema,
        )
        self.attempts = sa.Table(
            "job_attempts",
            metadata,
            sa.Column("task_id", sa.Uuid, sa.ForeignKey(f"{prefix}job_tasks.id", ondelete="CASCADE"), primary_key=True),
            sa.Column("epoch", sa.BigInteger, primary_key=True),
            sa.Column("number", sa.Integer, nullable=False),
            sa.Column("worker", sa.Text, nullable=False),
            sa.Column("outcome", sa.Text, nullable=False, server_default=Outcome.RUNNING.value),
            sa.Column("will_retry", sa.Boolean),
            sa.Column("error_reason", sa.Text),
            sa.Column("error_message", sa.Text),
            sa.Column("error", postgresql.JSONB, nullable=False, server_default="{}"),
            _time("started_at", nullable=False),
            _time("ended_at"),
            sa.CheckConstraint(_states("outcome", Outcome), name="job_attempts_outcome_check"),
            schema=schema,
        )
        # No foreign key: a row locked by the dispatcher must never block a cancel or a delete. The dispatcher deletes
        # rows
        # whose task is gone or has moved on.
        self.outbox = sa.Table(
            "job_outbox",
            metadata,
            sa.Column("task_id", sa.Uuid, primary_key=True),
            sa.Column("dispatch", sa.BigInteger, primary_key=True),
            _time("due_at", nullable=False),
            sa.Index("job_outbox_due", "due_at"),
            schema=schema,
        )
