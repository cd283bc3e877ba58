"""The SQL that every kind of record needs: reading by name, uid and job, lists, changes, progress, deletion."""

import abc
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.records import queries
from services.records.queries import Cursor, Lock
from services.records.record import Record
from services.runtime import notifications

RecordT = TypeVar("RecordT", bound=Record)
NameT = TypeVar("NameT")
"""What a record is called in requests."""


class RecordRepository(abc.ABC, Generic[RecordT, NameT]):
    """The rows of one kind of record; `channel` is the Postgres channel on which changes are announced.

    `select` reads a record where it takes more than the columns of its table.
    """

    def __init__(
        self, table: sa.Table, record: Callable[..., RecordT], channel: str, *, select: sa.Select[Any] | None = None
    ) -> None:
        self._table = table
        self._type = record
        self._channel = channel
        self._select = sa.select(table) if select is None else select

    def record(self, row: sa.Row[Any]) -> RecordT:
        """Return the record in a row."""
        return self._type(**row._mapping)  # noqa: SLF001  SQLAlchemy's public name for it

    async def find_one(
        self, conn: AsyncConnection, *conditions: sa.ColumnElement[bool], lock: Lock = Lock.NONE
    ) -> RecordT | None:
        """Read the one record that meets the conditions."""
        statement = queries.with_lock(self._select.where(*conditions), lock, self._table)
        row = (await conn.execute(statement)).one_or_none()
        return self.record(row) if row else None

    async def find_all(
        self, conn: AsyncConnection, *conditions: sa.ColumnElement[bool], order: Sequence[sa.ColumnElement[Any]]
    ) -> list[RecordT]:
        """Read all records that meet the conditions."""
        return [self.record(row) for row in await conn.execute(self._select.where(*conditions).order_by(*order))]

    async def find(self, conn: AsyncConnection, name: NameT, lock: Lock = Lock.NONE) -> RecordT | None:
        """Read a record by name."""
        return await self.find_one(conn, self.named(name), lock=lock)

    async def get(self, conn: AsyncConnection, name: NameT, lock: Lock = Lock.NONE) -> RecordT:
        """Read a record by name; raises NotFound."""
        found = await self.find(conn, name, lock)
        if found is None:
            raise await self.not_found(conn, name)
        return found

    @abc.abstractmethod
    def named(self, name: NameT) -> sa.ColumnElement[bool]:
        """Return the condition that the record of that name meets."""

    @abc.abstractmethod
    async def not_found(self, conn: AsyncConnection, name: NameT) -> Exception:
        """Return the error for a name that no record has."""

    async def find_by_uid(self, conn: AsyncConnection, uid: object, lock: Lock = Lock.NONE) -> RecordT | None:
        """Read a record by its uid."""
        return await self.find_one(conn, self._table.c.id == uid, lock=lock)

    async def find_by_job(self, conn: AsyncConnection, job_id: uuid.UUID, lock: Lock = Lock.CHANGE) -> RecordT | None:
        """Read the record that a job works on; None if it has another job by now, or is deleted."""
        return await self.find_one(conn, self._table.c.job_id == job_id, lock=lock)

    async def page(
        self,
        conn: AsyncConnection,
        statuses: Collection[str],
        after: Cursor | None,
        limit: int,
        *conditions: sa.ColumnElement[bool],
    ) -> list[RecordT]:
        """Read a page of the records that meet the conditions, newest first."""
        statement = queries.paginate(self._select.where(*conditions), self._table, statuses, after, limit)
        return [self.record(row) for row in await conn.execute(statement)]

    async def insert(self, conn: AsyncConnection, **values: Any) -> RecordT | None:
        """Create a record; None if one of that name exists."""
        statement = upsert(self._table).values(**values).on_conflict_do_nothing().returning(self._table)
        row = (await conn.execute(statement)).one_or_none()
        return self.record(row) if row else None

    async def update(self, conn: AsyncConnection, uid: object, **values: Any) -> RecordT:
        """Change a record that the caller has locked, and wake its watchers once the transaction commits."""
        statement = queries.touch(self._table, **values).where(self._table.c.id == uid).returning(self._table)
        changed = self.record((await conn.execute(statement)).one())
        await self.notify_changed(conn, uid)
        return changed

    async def progress(self, conn: AsyncConnection, job_id: uuid.UUID, percent: float) -> None:
        """Advance the progress of the record that a job works on, never back."""
        table = self._table
        statement = table.update().where(
            table.c.job_id == job_id, table.c.status == "PROCESSING", table.c.progress < percent
        )
        await conn.execute(statement.values(progress=percent))

    async def delete(self, conn: AsyncConnection, uid: object) -> None:
        """Delete a record with the rows that belong to it."""
        await conn.execute(self._table.delete().where(self._table.c.id == uid))
        await self.notify_changed(conn, uid)

    async def notify_changed(self, conn: AsyncConnection, uid: object) -> None:
        """Wake the watchers of a record in every replica, once the transaction commits."""
        await notifications.notify(conn, self._channel, str(uid))


class ChosenIdRepository(RecordRepository[RecordT, str]):
    """The rows of a kind of record whose ids its creators choose.

    `parse_uid` reads a uid, and returns None for a chosen id; `not_found_error` gets an id that no record has and the
    ids that exist.
    """

    def __init__(
        self,
        table: sa.Table,
        record: Callable[..., RecordT],
        channel: str,
        *,
        parse_uid: Callable[[str], Any],
        not_found_error: Callable[[str, Sequence[str]], Exception],
    ) -> None:
        super().__init__(table, record, channel)
        self._parse_uid = parse_uid
        self._not_found_error = not_found_error

    def named(self, name: str) -> sa.ColumnElement[bool]:
        """Return the condition that the record of that id or uid meets."""
        uid = self._parse_uid(name)
        return self._table.c.name == name if uid is None else self._table.c.id == uid

    async def not_found(self, conn: AsyncConnection, name: str) -> Exception:
        """Return the error for an id that no record has; it names similar ids."""
        table = self._table
        statement = sa.select(table.c.name).order_by(table.c.created_at.desc()).limit(queries.MAX_KNOWN)
        return self._not_found_error(name, (await conn.execute(statement)).scalars().all())


class HoldingRepository(ChosenIdRepository[RecordT]):
    """The rows of a kind of record that holds what it reads while it is in one of the states `holding`."""

    holding: frozenset[str]

    async def list_holders(self, conn: AsyncConnection, *, needed: bool) -> list[RecordT]:
        """Read the records that hold something: those that need it, or those that ended."""
        condition = self._needs_hold() if needed else sa.not_(self._needs_hold())
        return await self.find_all(conn, self._table.c.held, condition, order=(self._table.c.created_at,))

    async def mark_hold_released(self, conn: AsyncConnection, name: str) -> None:
        """Record that a record that ended holds nothing any more; a retry that came meanwhile holds it again."""
        statement = self._table.update().where(self._table.c.name == name, sa.not_(self._needs_hold()))
        await conn.execute(statement.values(held=False))

    def _needs_hold(self) -> sa.ColumnElement[bool]:
        return self._table.c.status.in_(sorted(self.holding))
