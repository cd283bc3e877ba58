"""Rows of datasets and of their raw shards."""

import uuid
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog.server import tables
from services.catalog.server.domain import names, not_found, records
from services.records import queries

_table = tables.datasets
_shards = tables.dataset_shards


def _record(row: sa.Row[Any]) -> records.Dataset:
    return records.Dataset(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name for it


def _named(identifier: str) -> sa.ColumnElement[bool]:
    uid = names.dataset_uid(identifier)
    return _table.c.name == identifier if uid is None else _table.c.id == uid


async def find(
    conn: AsyncConnection, identifier: str, lock: queries.Lock = queries.Lock.NONE
) -> records.Dataset | None:
    """Read a dataset by id or uid."""
    statement = queries.with_lock(sa.select(_table).where(_named(identifier)), lock, _table)
    row = (await conn.execute(statement)).one_or_none()
    return _record(row) if row else None


async def get(conn: AsyncConnection, identifier: str, lock: queries.Lock = queries.Lock.NONE) -> records.Dataset:
    """Read a dataset by id or uid; NotFound names close ones."""
    found = await find(conn, identifier, lock)
    if found is None:
        raise not_found.dataset(identifier, await known(conn))
    return found


async def known(conn: AsyncConnection) -> Sequence[str]:
    """Return the ids of datasets, newest first."""
    statement = sa.select(_table.c.name).order_by(_table.c.created_at.desc()).limit(queries.MAX_KNOWN)
    return (await conn.execute(statement)).scalars().all()


async def find_by_job(conn: AsyncConnection, job_id: uuid.UUID) -> records.Dataset | None:
    """Read and lock the dataset that a job makes; None if it has another job by now, or is gone."""
    statement = sa.select(_table).where(_table.c.job_id == job_id)
    row = (await conn.execute(queries.with_lock(statement, queries.Lock.CHANGE, _table))).one_or_none()
    return _record(row) if row else None


async def page(
    conn: AsyncConnection, statuses: Collection[str], after: queries.Cursor | None, limit: int
) -> list[records.Dataset]:
    """Read a page of datasets, newest first."""
    statement = queries.paginate(sa.select(_table), _table, statuses, after, limit)
    return [_record(row) for row in await conn.execute(statement)]


async def insert(conn: AsyncConnection, **values: Any) -> records.Dataset | None:
    """Make a dataset; None if one of that name exists."""
    statement = upsert(_table).values(**values).on_conflict_do_nothing().returning(_table)
    row = (await conn.execute(statement)).one_or_none()
    return _record(row) if row else None


async def update(conn: AsyncConnection, dataset_id: uuid.UUID, **values: Any) -> records.Dataset:
    """Change a dataset."""
    statement = queries.touch(_table, **values).where(_table.c.id == dataset_id).returning(_table)
    return _record((await conn.execute(statement)).one())


async def progress(conn: AsyncConnection, job_id: uuid.UUID, status: str, percent: float) -> None:
    """Move the progress of what a job makes on, never back."""
    statement = (
        _table.update()
        .where(_table.c.job_id == job_id, _table.c.status == status, _table.c.progress < percent)
        .values(progress=percent)
    )
    await conn.execute(statement)


async def delete(conn: AsyncConnection, dataset_id: uuid.UUID) -> None:
    """Delete a dataset and the rows of its shards."""
    await conn.execute(_table.delete().where(_table.c.id == dataset_id))


async def shards(conn: AsyncConnection, dataset_id: uuid.UUID) -> list[records.Shard]:
    """Read the raw shards of a dataset, in the order of its rows."""
    columns = (_shards.c.key, _shards.c.num_rows, _shards.c.size_bytes, _shards.c.sha256, _shards.c.text_bytes)
    statement = sa.select(*columns).where(_shards.c.dataset_id == dataset_id).order_by(_shards.c.ordinal)
    return [records.Shard(*row) for row in await conn.execute(statement)]


async def replace_shards(conn: AsyncConnection, dataset_id: uuid.UUID, files: Sequence[records.Shard]) -> None:
    """Set the raw shards of a dataset."""
    await conn.execute(_shards.delete().where(_shards.c.dataset_id == dataset_id))
    if files:
        rows = [
            {
                "dataset_id": dataset_id,
                "ordinal": ordinal,
                "key": file.key,
                "num_rows": file.num_rows,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
                "text_bytes": file.text_bytes,
            }
            for ordinal, file in enumerate(files)
        ]
        await conn.execute(_shards.insert(), rows)
