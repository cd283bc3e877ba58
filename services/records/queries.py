"""What the repositories share: locks, pages, and the stamp of every change."""

import enum
from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

MAX_KNOWN = 1000
"""Names at most that are looked through for close ones."""


class Lock(enum.Enum):
    """What a read keeps others from until the transaction ends."""

    NONE = "none"
    REFERENCE = "reference"
    """Deleting it; any number may hold this at once."""
    CHANGE = "change"
    """Changing it, deleting it, and adding a reference to it."""


class Cursor(NamedTuple):
    """A row's place in a list, newest first."""

    created_at: datetime
    id: Any


def with_lock(statement: sa.Select[Any], lock: Lock, table: sa.Table) -> sa.Select[Any]:
    """Add the lock on the rows of one table."""
    if lock is Lock.NONE:
        return statement
    if lock is Lock.REFERENCE:
        return statement.with_for_update(of=table, key_share=True, read=True)
    return statement.with_for_update(of=table)


def paginate(
    statement: sa.Select[Any], table: sa.Table, statuses: Collection[str], after: Cursor | None, limit: int
) -> sa.Select[Any]:
    """Narrow a list to a page."""
    if statuses:
        statement = statement.where(table.c.status.in_(sorted(statuses)))
    if after is not None:
        statement = statement.where(
            sa.tuple_(table.c.created_at, table.c.id)
            < sa.tuple_(sa.literal(after.created_at, table.c.created_at.type), sa.literal(after.id, table.c.id.type))
        )
    return statement.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)


def touch(table: sa.Table, **values: Any) -> sa.Update:
    """Return an update that stamps the row as changed."""
    return table.update().values(updated_at=sa.func.clock_timestamp(), **values)
