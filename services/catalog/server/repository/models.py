"""Rows of models."""

import uuid
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog.server import tables
from services.catalog.server.domain import names, not_found, records
from services.records import queries

_table = tables.models


def _record(row: sa.Row[Any]) -> records.Model:
    return records.Model(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name for it


def _named(identifier: str) -> sa.ColumnElement[bool]:
    return (_table.c.id if names.is_model_uid(identifier) else _table.c.name) == identifier


async def find(conn: AsyncConnection, identifier: str, lock: queries.Lock = queries.Lock.NONE) -> records.Model | None:
    """Read a model by id or uid."""
    statement = queries.with_lock(sa.select(_table).where(_named(identifier)), lock, _table)
    row = (await conn.execute(statement)).one_or_none()
    return _record(row) if row else None


async def get(conn: AsyncConnection, identifier: str, lock: queries.Lock = queries.Lock.NONE) -> records.Model:
    """Read a model by id or uid; NotFound names close ones."""
    found = await find(conn, identifier, lock)
    if found is None:
        raise not_found.model(identifier, await known(conn))
    return found


async def known(conn: AsyncConnection) -> Sequence[str]:
    """Return the ids of models, newest first."""
    statement = sa.select(_table.c.name).order_by(_table.c.created_at.desc()).limit(queries.MAX_KNOWN)
    return (await conn.execute(statement)).scalars().all()


async def find_by_job(conn: AsyncConnection, job_id: uuid.UUID) -> records.Model | None:
    """Read and lock the model that a job inspects; None if it has another job by now, or is gone."""
    statement = sa.select(_table).where(_table.c.job_id == job_id)
    row = (await conn.execute(queries.with_lock(statement, queries.Lock.CHANGE, _table))).one_or_none()
    return _record(row) if row else None


async def page(
    conn: AsyncConnection, statuses: Collection[str], after: queries.Cursor | None, limit: int
) -> list[records.Model]:
    """Read a page of models, newest first."""
    statement = queries.paginate(sa.select(_table), _table, statuses, after, limit)
    return [_record(row) for row in await conn.execute(statement)]


async def insert(conn: AsyncConnection, **values: Any) -> records.Model | None:
    """Make a model; None if one of that name exists."""
    statement = upsert(_table).values(**values).on_conflict_do_nothing(index_elements=[_table.c.name]).returning(_table)
    row = (await conn.execute(statement)).one_or_none()
    return _record(row) if row else None


async def update(conn: AsyncConnection, model_id: str, **values: Any) -> records.Model:
    """Change a model."""
    statement = queries.touch(_table, **values).where(_table.c.id == model_id).returning(_table)
    return _record((await conn.execute(statement)).one())


async def delete(conn: AsyncConnection, model_id: str) -> None:
    """Delete a model."""
    await conn.execute(_table.delete().where(_table.c.id == model_id))
