"""Rows of extractions and of their files."""

import uuid
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.extractor.v1 import tasks_pb2
from services.extractor.server import resource_names, tables
from services.extractor.server.models import Extraction
from services.records import queries
from services.records.holds import HoldStore
from services.records.queries import Lock

_table = tables.extractions
_files = tables.extraction_files

holds = HoldStore(tables.extraction_holds)
"""Who reads extractions right now."""


def _record(row: sa.Row[Any]) -> Extraction:
    return Extraction(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name for it


async def find(conn: AsyncConnection, identifier: str, lock: Lock = Lock.NONE) -> Extraction | None:
    """Read an extraction by id or uid."""
    uid = resource_names.parse_uid(identifier)
    condition = _table.c.name == identifier if uid is None else _table.c.id == uid
    row = (await conn.execute(queries.with_lock(sa.select(_table).where(condition), lock, _table))).one_or_none()
    return _record(row) if row else None


async def get(conn: AsyncConnection, identifier: str, lock: Lock = Lock.NONE) -> Extraction:
    """Read an extraction; NotFound tells close names."""
    found = await find(conn, identifier, lock)
    if found is None:
        raise await not_found(conn, identifier)
    return found


async def not_found(conn: AsyncConnection, identifier: str) -> Exception:
    """Return the error for a name that no extraction has."""
    statement = sa.select(_table.c.name).order_by(_table.c.created_at.desc()).limit(queries.MAX_KNOWN)
    return resource_names.not_found_error(identifier, list((await conn.execute(statement)).scalars()))


async def find_by_job(conn: AsyncConnection, job_id: uuid.UUID) -> Extraction | None:
    """Read and lock the extraction that a job makes; None if it has another job by now, or is gone."""
    statement = queries.with_lock(sa.select(_table).where(_table.c.job_id == job_id), Lock.CHANGE, _table)
    row = (await conn.execute(statement)).one_or_none()
    return _record(row) if row else None


async def page(
    conn: AsyncConnection,
    statuses: Collection[str],
    after: queries.Cursor | None,
    limit: int,
    *,
    dataset: str,
    model: str,
) -> list[Extraction]:
    """Read a page of extractions, newest first; an empty dataset or model means all."""
    statement = sa.select(_table)
    if dataset:
        statement = statement.where(_table.c.dataset == dataset)
    if model:
        statement = statement.where(_table.c.model == model)
    return [_record(row) for row in await conn.execute(queries.paginate(statement, _table, statuses, after, limit))]


async def list_holders(conn: AsyncConnection, *, live: bool) -> list[Extraction]:
    """Read the extractions that hold a tokenization: those that are being made, or those that ended."""
    ended = _table.c.status.in_(("READY", "ERROR", "CANCELLED"))
    statement = sa.select(_table).where(_table.c.held, sa.not_(ended) if live else ended)
    return [_record(row) for row in await conn.execute(statement)]


async def insert(conn: AsyncConnection, **values: Any) -> Extraction | None:
    """Make an extraction; None if there is one of that name."""
    statement = upsert(_table).values(**values).on_conflict_do_nothing().returning(_table)
    row = (await conn.execute(statement)).one_or_none()
    return _record(row) if row else None


async def update(conn: AsyncConnection, uid: uuid.UUID, **values: Any) -> Extraction:
    """Change an extraction that the caller has locked."""
    statement = queries.touch(_table, **values).where(_table.c.id == uid).returning(_table)
    return _record((await conn.execute(statement)).one())


async def mark_hold_released(conn: AsyncConnection, name: str) -> None:
    """Record that an extraction that ended holds nothing any more; a retry that came meanwhile holds it again."""
    ended = _table.c.status.in_(("READY", "ERROR", "CANCELLED"))
    await conn.execute(_table.update().where(_table.c.name == name, ended).values(held=False))


async def progress(conn: AsyncConnection, job_id: uuid.UUID, percent: float) -> None:
    """Move the progress of what a job makes on, never back."""
    statement = (
        _table.update()
        .where(_table.c.job_id == job_id, _table.c.status == "PROCESSING", _table.c.progress < percent)
        .values(progress=percent)
    )
    await conn.execute(statement)


async def delete(conn: AsyncConnection, uid: uuid.UUID) -> None:
    """Delete an extraction and the rows of its files."""
    await conn.execute(_table.delete().where(_table.c.id == uid))


async def replace_files(conn: AsyncConnection, uid: uuid.UUID, found: Sequence[tasks_pb2.ActivationFile]) -> None:
    """Set the files of an extraction."""
    await conn.execute(_files.delete().where(_files.c.extraction_id == uid))
    rows = [
        {
            "extraction_id": uid,
            "ordinal": ordinal,
            "key": file.key,
            "num_rows": file.num_rows,
            "size_bytes": file.size_bytes,
            "sha256": file.sha256,
        }
        for ordinal, file in enumerate(found)
    ]
    if rows:
        await conn.execute(_files.insert(), rows)
