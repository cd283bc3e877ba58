"""What every servicer of the catalog is made of."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc
import sqlalchemy as sa
from google.protobuf import field_mask_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.catalog import tables
from services.catalog.folders import Folders
from services.catalog.repositories.statements import Lock
from services.catalog.watch import Watch
from services.runtime.database import Database
from services.runtime.jobs.store import JobStore
from services.runtime.storage import Storage

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Parts:
    """The resources of one catalog process."""

    database: Database
    storage: Storage
    store: JobStore
    folders: Folders
    watch: Watch


class _Made(Protocol):
    @property
    def resource(self) -> str: ...

    @property
    def etag(self) -> str: ...

    @property
    def job_id(self) -> uuid.UUID | None: ...


Record = TypeVar("Record", bound=_Made)


async def stopped(
    conn: AsyncConnection, store: JobStore, read: Callable[[Lock], Awaitable[Record | None]]
) -> Record | None:
    """Cancels the job that makes a record, if one is at it, and gives the record, locked; None if it is gone.

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


async def drop_jobs(conn: AsyncConnection, store: JobStore, resource: str) -> None:
    """Deletes the jobs that made a resource, those before a retry included."""
    jobs = tables.jobs.jobs
    for job_id in (await conn.execute(sa.select(jobs.c.id).where(jobs.c.resource == resource))).scalars().all():
        await store.delete(conn, job_id)


def check_etag(record: _Made, etag: str) -> None:
    """Refuses a change of something other than what the caller has read (AIP-154)."""
    if etag and etag != record.etag:
        raise errors.Aborted(
            f"{record.resource} changed since you read it; read it again and repeat the change.",
            reason="ETAG_MISMATCH",
            metadata={"resource": record.resource},
        )


def check_mask(mask: field_mask_pb2.FieldMask) -> None:
    """Refuses to change anything but metadata (AIP-134)."""
    for path in mask.paths:
        if path not in {"metadata", "*"}:
            description = f"{path!r} cannot be changed; only 'metadata' can."
            raise errors.InvalidArgument(
                f"update_mask: {description}", violations=[errors.FieldViolation("update_mask", description)]
            )


def held(resource: str, holders: list[str]) -> errors.FailedPrecondition:
    """Tells who holds what was to be deleted."""
    return errors.FailedPrecondition(
        f"{resource} is being read by {', '.join(holders)}; wait until that ends, or cancel it.",
        reason="RESOURCE_HELD",
        metadata={"resource": resource, "holders": ", ".join(holders)[:1000]},
    )


def depended_on(resource: str, dependents: list[str]) -> errors.FailedPrecondition:
    """Tells which tokenizations a deletion would take along."""
    count = len(dependents)
    what = "1 tokenization" if count == 1 else f"{count} tokenizations"
    shown = ", ".join(dependents[:3]) + (", …" if count > 3 else "")
    kind, _, identifier = resource.partition("/")
    return errors.FailedPrecondition(
        f"{resource} has {what} ({shown}); delete {'it' if count == 1 else 'them'} first, or all of it with "
        f"`polytok {kind.removesuffix('s')} delete {identifier} --force`.",
        reason="RESOURCE_HELD",
        metadata={"resource": resource, "holders": ", ".join(dependents)[:1000]},
    )
