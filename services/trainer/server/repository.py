"""Rows of trainings."""

import uuid
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.records import queries
from services.records.queries import Lock
from services.trainer.server import models, resource_names, states, tables

_table = tables.trainings


def _record(row: sa.Row[Any]) -> models.Training:
    return models.Training(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name for it


async def find(conn: AsyncConnection, identifier: str, lock: Lock = Lock.NONE) -> models.Training | None:
    """Read a training by id or uid."""
    uid = resource_names.parse_uid(identifier)
    condition = _table.c.name == identifier if uid is None else _table.c.id == uid
    row = (await conn.execute(queries.with_lock(sa.select(_table).where(condition), lock, _table))).one_or_none()
    return _record(row) if row else None


async def get(conn: AsyncConnection, identifier: str, lock: Lock = Lock.NONE) -> models.Training:
    """Read a training; NotFound tells close names."""
    found = await find(conn, identifier, lock)
    if found is None:
        raise await not_found(conn, identifier)
    return found


async def not_found(conn: AsyncConnection, identifier: str) -> Exception:
    """Return the error for a name that no training has."""
    statement = sa.select(_table.c.name).order_by(_table.c.created_at.desc()).limit(queries.MAX_KNOWN)
    return resource_names.not_found_error(identifier, list((await conn.execute(statement)).scalars()))


async def find_by_uid(conn: AsyncConnection, uid: uuid.UUID) -> models.Training | None:
    """Read a training by its uid."""
    row = (await conn.execute(sa.select(_table).where(_table.c.id == uid))).one_or_none()
    return _record(row) if row else None


async def find_by_job(conn: AsyncConnection, job_id: uuid.UUID, lock: Lock = Lock.CHANGE) -> models.Training | None:
    """Read the training that a job makes; None if it has another job by now, or is gone."""
    statement = queries.with_lock(sa.select(_table).where(_table.c.job_id == job_id), lock, _table)
    row = (await conn.execute(statement)).one_or_none()
    return _record(row) if row else None


async def page(
    conn: AsyncConnection, statuses: Collection[str], after: queries.Cursor | None, limit: int
) -> list[models.Training]:
    """Read a page of trainings, newest first."""
    statement = queries.paginate(sa.select(_table), _table, statuses, after, limit)
    return [_record(row) for row in await conn.execute(statement)]


async def insert(conn: AsyncConnection, **values: Any) -> models.Training | None:
    """Make a training; None if there is one of that name."""
    statement = upsert(_table).values(**values).on_conflict_do_nothing().returning(_table)
    row = (await conn.execute(statement)).one_or_none()
    return _record(row) if row else None


async def update(conn: AsyncConnection, uid: uuid.UUID, **values: Any) -> models.Training:
    """Change a training that the caller has locked."""
    statement = queries.touch(_table, **values).where(_table.c.id == uid).returning(_table)
    return _record((await conn.execute(statement)).one())


async def progress(conn: AsyncConnection, job_id: uuid.UUID, percent: float) -> None:
    """Move the progress of what a job makes on, never back."""
    statement = (
        _table.update()
        .where(_table.c.job_id == job_id, _table.c.status == "PROCESSING", _table.c.progress < percent)
        .values(progress=percent)
    )
    await conn.execute(statement)


async def advance(conn: AsyncConnection, uid: uuid.UUID, **values: Any) -> None:
    """Record what a report told; this is progress, and no change of the record."""
    await conn.execute(_table.update().where(_table.c.id == uid).values(**values))


async def delete(conn: AsyncConnection, uid: uuid.UUID) -> None:
    """Delete a training with its metrics and the rows of its checkpoints."""
    await conn.execute(_table.delete().where(_table.c.id == uid))


async def list_holders(conn: AsyncConnection, *, wanted: bool) -> list[models.Training]:
    """Trainings that hold their tokenization: those that need it, or those that do no longer."""
    is_wanted = _table.c.status.in_(sorted(states.HOLDING))
    statement = sa.select(_table).where(_table.c.held, is_wanted if wanted else ~is_wanted)
    return [_record(row) for row in await conn.execute(statement.order_by(_table.c.created_at))]


async def mark_hold_released(conn: AsyncConnection, name: str) -> None:
    """Record that an ended training's tokenization is not held any more."""
    statement = _table.update().where(_table.c.name == name, _table.c.status.not_in(sorted(states.HOLDING)))
    await conn.execute(statement.values(held=False))
