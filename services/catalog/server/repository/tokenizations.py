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
from services.catalog.server.repository.datasets import datasets
from services.catalog.server.repository.models import models
from services.catalog.server.settings import SERVICE_NAME
from services.records import queries
from services.records.repository import RecordRepository

_table = tables.dataset_tokenizations
_files = tables.tokenization_files

_select = sa.select(
    _table, tables.datasets.c.name.label("dataset_name"), tables.models.c.name.label("model_name")
).select_from(_table.join(tables.datasets).join(tables.models))


def of_dataset(identifier: str) -> sa.ColumnElement[bool]:
    """Narrow to one dataset, by id or uid."""
    uid = names.dataset_uid(identifier)
    return tables.datasets.c.name == identifier if uid is None else _table.c.dataset_id == uid


def of_model(identifier: str) -> sa.ColumnElement[bool]:
    """Narrow to one model, by id or uid."""
    if names.is_model_uid(identifier):
        return _table.c.model_id == identifier
    return tables.models.c.name == identifier


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


class TokenizationRepository(RecordRepository[records.Tokenization, names.TokenizationName]):
    """Tokenizations, read with the names of their dataset and model."""

    def named(self, name: names.TokenizationName) -> sa.ColumnElement[bool]:
        """Return the condition that the tokenization of the ids or uids in a name meets."""
        return sa.and_(of_dataset(name.dataset), of_model(name.model), _table.c.variant == name.variant)

    async def not_found(self, conn: AsyncConnection, name: names.TokenizationName) -> Exception:
        """Return the error for a name that no tokenization has; it names the part that is wrong."""
        dataset = await datasets.get(conn, name.dataset)
        await models.get(conn, name.model)
        statement = _select.where(_table.c.dataset_id == dataset.id).limit(queries.MAX_KNOWN)
        known = [self.record(row).resource.rsplit("/", 1)[1] for row in await conn.execute(statement)]
        return not_found_errors.tokenization(name, known)

    async def require(self, conn: AsyncConnection, uid: object) -> records.Tokenization:
        """Read a tokenization that this transaction has locked, so that it is there."""
        found = await self.find_by_uid(conn, uid)
        assert found is not None
        return found

    async def resolve(
        self, conn: AsyncConnection, asked: Collection[names.TokenizationName]
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
                name = names.TokenizationName(
                    *(fields.pop(f"asked_{field}") for field in names.TokenizationName._fields)
                )
                found[name] = records.Tokenization(**fields)
        return found

    async def depending(
        self, conn: AsyncConnection, *, dataset_id: uuid.UUID | None = None, model_id: str | None = None
    ) -> list[records.Tokenization]:
        """Read the tokenizations of a dataset or of a model, in an order in which all may lock them."""
        condition = _table.c.dataset_id == dataset_id if dataset_id else _table.c.model_id == model_id
        return await self.find_all(conn, condition, order=(_table.c.id,))

    async def insert(self, conn: AsyncConnection, **values: Any) -> records.Tokenization | None:
        """Create a tokenization; None if there is one of that dataset, model and variant."""
        statement = upsert(_table).values(**values).on_conflict_do_nothing().returning(_table.c.id)
        uid = (await conn.execute(statement)).scalar_one_or_none()
        return None if uid is None else await self.require(conn, uid)

    async def update(self, conn: AsyncConnection, uid: object, **values: Any) -> records.Tokenization:
        """Change a tokenization that the caller has locked, and wake its watchers once the transaction commits."""
        await conn.execute(queries.touch(_table, **values).where(_table.c.id == uid))
        await self.notify_changed(conn, uid)
        return await self.require(conn, uid)

    async def files(self, conn: AsyncConnection, uid: str) -> list[records.File]:
        """Read the Arrow files of a tokenization, in the order of its rows."""
        columns = (_files.c.key, _files.c.num_rows, _files.c.size_bytes, _files.c.sha256)
        statement = sa.select(*columns).where(_files.c.tokenization_id == uid).order_by(_files.c.ordinal)
        return [records.File(*row) for row in await conn.execute(statement)]

    async def replace_files(self, conn: AsyncConnection, uid: str, found: Sequence[records.File]) -> None:
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


tokenizations = TokenizationRepository(_table, records.Tokenization, SERVICE_NAME, select=_select)
