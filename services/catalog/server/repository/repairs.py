"""Rows of repairs: the last one of each tokenization. Tokenizations that share a folder share its repair."""

import uuid
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog.server import tables
from services.catalog.server.domain import records
from services.catalog.server.repository.tokenizations import tokenizations
from services.jobs import failures
from services.records import queries

_table = tables.tokenization_repairs
_tokenizations = tables.dataset_tokenizations
LIVE = ("QUEUED", "PROCESSING")


def _record(row: sa.Row[Any]) -> records.Repair:
    return records.Repair(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name for it


async def begin(conn: AsyncConnection, uid: str, path: str, job_id: uuid.UUID, outcome: Mapping[str, Any]) -> None:
    """Make a tokenization's repair, in place of the one before; files are made in the folder `path`."""
    now = sa.func.clock_timestamp()
    values: dict[str, Any] = {
        "tokenized_path": path,
        "job_id": job_id,
        "status": "QUEUED",
        "progress": 0.0,
        **failures.NO_ERROR,
        "outcome": outcome,
        "created_at": now,
        "updated_at": now,
        "completed_at": None,
    }
    statement = upsert(_table).values(tokenization_id=uid, **values)
    await conn.execute(statement.on_conflict_do_update(index_elements=[_table.c.tokenization_id], set_=values))
    await tokenizations.notify_changed(conn, uid)


async def find_by_folders(conn: AsyncConnection, paths: Collection[str]) -> Mapping[str, records.Repair]:
    """Return the last repair of each folder of tokenizations, by folder.

    Those that were never repaired are left out.
    """
    statement = (
        sa.select(_tokenizations.c.tokenized_path.label("folder"), _table)
        .select_from(_table.join(_tokenizations))
        .where(_tokenizations.c.tokenized_path.in_(sorted(set(paths))))
        .order_by(_table.c.created_at)
    )
    found = {}
    for row in await conn.execute(statement):
        fields = dict(row._mapping)  # noqa: SLF001  SQLAlchemy's public name for it
        folder = fields.pop("folder")
        found[folder] = records.Repair(**fields)
    return found


async def find_by_folder(conn: AsyncConnection, path: str) -> records.Repair | None:
    """Return the last repair of a folder."""
    return (await find_by_folders(conn, [path])).get(path)


async def find_by_job(conn: AsyncConnection, job_id: uuid.UUID) -> records.Repair | None:
    """Read and lock the repair that a job does; None if it has another job by now, or is gone."""
    statement = queries.with_lock(sa.select(_table).where(_table.c.job_id == job_id), queries.Lock.CHANGE, _table)
    row = (await conn.execute(statement)).one_or_none()
    return _record(row) if row else None


async def update(conn: AsyncConnection, uid: str, **values: Any) -> None:
    """Change a repair."""
    await conn.execute(queries.touch(_table, **values).where(_table.c.tokenization_id == uid))
    await tokenizations.notify_changed(conn, uid)


async def progress(conn: AsyncConnection, job_id: uuid.UUID, percent: float) -> None:
    """Move the progress on, never back."""
    await conn.execute(
        _table.update()
        .where(_table.c.job_id == job_id, _table.c.status.in_(LIVE), _table.c.progress < percent)
        .values(progress=percent)
    )
