"""Ending the job that makes a record, before the record is changed or deleted."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.jobs.store import JobStore
from services.records.queries import Lock


class _Made(Protocol):
    @property
    def job_id(self) -> uuid.UUID | None: ...


Record = TypeVar("Record", bound=_Made)


async def cancel_job_and_lock(
    conn: AsyncConnection, store: JobStore, read: Callable[[Lock], Awaitable[Record | None]]
) -> Record | None:
    """Cancel the job that makes a record, if one is at it, and return the record, locked; None if it is gone.

    Locks are taken in the order of the job library: job, then record.
    """
    record = await read(Lock.NONE)
    while record is not None:
        job_id = record.job_id
        if job_id is not None:
            await store.cancel(conn, job_id)
        record = await read(Lock.CHANGE)
        # A retry may have given it another job meanwhile; with the record locked nobody else can.
        if record is not None and record.job_id == job_id:
            break
    return record


async def delete_jobs(conn: AsyncConnection, store: JobStore, resource: str) -> None:
    """Delete the jobs that made a resource, those before a retry included."""
    jobs = store.tables.jobs
    for job_id in (await conn.execute(sa.select(jobs.c.id).where(jobs.c.resource == resource))).scalars().all():
        await store.delete(conn, job_id)
