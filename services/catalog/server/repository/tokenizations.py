"""Rows of tokenizations and of their files."""

import functools
import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog.server import tables
from services.catalog.server.domain import names, records
from services.catalog.server.domain import not_found as not_found_errors
from services.catalog.server.repository import datasets, models
from services.records import queries

_table = tables.dataset_tokenizations
_files = tables.tokenization_files

_select = sa.select(
    _table, tables.datasets.c.name.label("dataset_name"), tables.models.c.name.label("model_name")
).select_from(_table.join(tables.datasets).join(tables.models))


def select() -> sa.Select[Any]:
    """Select tokenizations, for `record`."""
    return _select


def record(row: sa.Row[Any]) -> records.Tokenization:
    """Return the tokenization in a row."""
    return records.Tokenization(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name for it


def of_dataset(identifier: str) -> sa.ColumnElement[bool]:
    """Narrow to one dataset, by id or uid."""
    uid = names.dataset_uid(identifier)
    return tables.datasets.c.name == identifier if uid is None else _table.c.dataset_id == uid


def of_model(identifier: str) -> sa.ColumnElement[bool]:
    """Narrow to one model, by id or uid."""
    if names.is_model_uid(identifier):
        return _table.c.model_id == identifier
    return tables.models.c.name == identifier


async def find(
    conn: AsyncConnection, name: names.TokenizationName, lock: queries.Lock = queries.Lock.NONE
) -> records.Tokenization | None:
    """Read a tokenization by the ids or uids in its name."""
    statement = _select.where(of_dataset(name.dataset), of_model(name.model), _table.c.variant == name.variant)
    row = (await conn.execute(queries.with_lock(statement, lock, _table))).one_or_none()
    return record(row) if row else None


async def get(
    conn: AsyncConnection, name: names.TokenizationName, lock: queries.Lock = queries.Lock.NONE
) -> records.Tokenization:
    """Read a tokenization; NotFound tells which part of the name is wrong."""
    found = await find(conn, name, lock)
    if found is None:
        raise await not_found(conn, name)
    return found


async def not_found(conn: AsyncConnection, name: names.TokenizationName) -> Exception:
    """Return the error for a name that no tokenization has: it tells which part of it is wrong."""
    dataset = await datasets.get(conn, name.dataset)
    await models.get(conn, name.model)
    statement = _select.where(_table.c.dataset_id == dataset.id).limit(queries.MAX_KNOWN)
    known = [record(row).resource.rsplit("/", 1)[1] for row in await conn.execute(statement)]
    return not_found_errors.tokenization(name, known)


async def by_id(conn: AsyncConnection, uid: str, lock: queries.Lock = queries.Lock.NONE) -> records.Tokenization | None:
    """Read a tokenization by its uid."""
    statement = queries.with_lock(_select.where(_table.c.id == uid), lock, _table)
    row = (await conn.execute(statement)).one_or_none()
    return record(row) if row else None


async def require(conn: AsyncConnection, uid: str) -> records.Tokenization:
    """Read a tokenization that this transaction has locked, so that it is there."""
    found = await by_id(conn, uid)
    assert found is not None
    return found


async def resolve(
    conn: AsyncConnection, asked: Collection[names.TokenizationName]
) -> dict[names.TokenizationName, records.Tokenization]:
    """Read many tokenizations by name, in one statement for all names that are written alike."""
    alike: defaultdict[tuple[bool, bool], list[names.TokenizationName]] = defaultdict(list)
    for name in asked:
        alike[names.dataset_uid(name.dataset) is not None, names.is_model_uid(name.model)].append(name)
    found = {}
    for (by_dataset_uid, by_model_uid), group in alike.items():
        statement = _resolving(by_dataset_uid, by_model_uid)
        columns = {field: [getattr(name, field) for name in group] for field in names.TokenizationName._fields}
        for row in await conn.execute(statement, {f"{field}s": column for field, column in columns.items()}):
            fields = dict(row._mapping)  # noqa: SLF001  SQLAlchemy's public name for it
            name = names.TokenizationName(*(fields.pop(f"asked_{field}") for field in names.TokenizationName._fields))
            found[name] = records.Tokenization(**fields)
    return found


@functools.cache
def _resolving(by_dataset_uid: bool, by_model_uid: bool) -> sa.Select[Any]:
    lists = (sa.bindparam(f"{field}s", type_=pg.ARRAY(sa.Text)) for field in names.TokenizationName._fields)
    asked = sa.func.unnest(*lists).table_valued("dataset", "model", "variant", name="asked").render_derived()
    is_dataset = (
        tables.datasets.c.id == sa.cast(asked.c.dataset, pg.UUID)
        if by_dataset_uid
        else tables.datasets.c.name == asked.c.dataset
    )
    is_model = (tables.models.c.id if by_model_uid else tables.models.c.name) == asked.c.model
    return _select.add_columns(
        *(asked.c[field].label(f"asked_{field}") for field in names.TokenizationName._fields)
    ).where(is_dataset, is_model, _table.c.variant == asked.c.variant)


async def find_by_job(conn: AsyncConnection, job_id: uuid.UUID) -> records.Tokenization | None:
    """Read and lock the tokenization that a job makes; None if it has another job by now, or is gone."""
    statement = queries.with_lock(_select.where(_table.c.job_id == job_id), queries.Lock.CHANGE, _table)
    row = (await conn.execute(statement)).one_or_none()
    return record(row) if row else None


async def depending(
    conn: AsyncConnection, *, dataset_id: uuid.UUID | None = None, model_id: str | None = None
) -> list[records.Tokenization]:
    """Read the tokenizations of a dataset or of a model, in an order in which all may lock them."""
    condition = _table.c.dataset_id == dataset_id if dataset_id else _table.c.model_id == model_id
    return [record(row) for row in await conn.execute(_select.where(condition).order_by(_table.c.id))]


async def page(
    conn: AsyncConnection,
    statuses: Collection[str],
    after: queries.Cursor | None,
    limit: int,
    *,
    dataset: str | None,
    model: str | None,
) -> list[records.Tokenization]:
    """Read a page of tokenizations, newest first."""
    statement = _select
    if dataset is not None:
        statement = statement.where(of_dataset(dataset))
    if model is not None:
        statement = statement.where(of_model(model))
    statement = queries.paginate(statement, _table, statuses, after, limit)
    return [record(row) for row in await conn.execute(statement)]


async def insert(conn: AsyncConnection, **values: Any) -> bool:
    """Make a tokenization; False if there is one of that dataset, model and variant."""
    statement = upsert(_table).values(**values).on_conflict_do_nothing().returning(_table.c.id)
    return (await conn.execute(statement)).one_or_none() is not None


async def update(conn: AsyncConnection, uid: str, **values: Any) -> None:
    """Change a tokenization."""
    await conn.execute(queries.touch(_table, **values).where(_table.c.id == uid))


async def progress(conn: AsyncConnection, job_id: uuid.UUID, percent: float) -> None:
    """Move the progress of what a job makes on, never back."""
    statement = (
        _table.update()
        .where(_table.c.job_id == job_id, _table.c.status == "PROCESSING", _table.c.progress < percent)
        .values(progress=percent)
    )
    await conn.execute(statement)


async def delete(conn: AsyncConnection, uid: str) -> None:
    """Delete a tokenization and the rows of its files."""
    await conn.execute(_table.delete().where(_table.c.id == uid))


async def files(conn: AsyncConnection, uid: str) -> list[records.File]:
    """Read the Arrow files of a tokenization, in the order of its rows."""
    columns = (_files.c.key, _files.c.num_rows, _files.c.size_bytes, _files.c.sha256)
    statement = sa.select(*columns).where(_files.c.tokenization_id == uid).order_by(_files.c.ordinal)
    return [records.File(*row) for row in await conn.execute(statement)]


async def replace_files(conn: AsyncConnection, uid: str, found: Sequence[records.File]) -> None:
    """Set the Arrow files of a tokenization."""
    await conn.execute(_files.delete().where(_files.c.tokenization_id == uid))
    if found:
        rows = [
            {
                "tokenization_id": uid,
                "ordinal": ordinal,
                "key": file.key,
                "num_rows": file.num_rows,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
            }
            for ordinal, file in enumerate(found)
        ]
        await conn.execute(_files.insert(), rows)
