"""Who reads a record right now: holds, which end by the database's clock. What is held is not deleted.

A deletion locks the record for a change (`Lock.CHANGE`) and then asks for holders; a hold locks it against
that (`Lock.REFERENCE`): of a deletion and a hold that come at once, one is first and the other is refused.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.records import columns


def table(metadata: sa.MetaData, name: str, of: sa.Column[Any]) -> sa.Table:
    """Return the table of a service's holds; `of` refers to the record that is held, and goes with it."""
    return sa.Table(
        name,
        metadata,
        of,
        sa.Column("holder", sa.Text, primary_key=True),  # a resource name, such as `extractions/…`
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        columns.time("created_at"),
    )


class HoldStore:
    """The holds of one kind of record, in a `table`."""

    def __init__(self, rows: sa.Table) -> None:
        self._rows = rows
        self._of = next(iter(rows.c))

    async def hold(self, conn: AsyncConnection, uid: object, holder: str, ttl: timedelta) -> datetime:
        """Create or extend a hold, never shorten it; return when it ends. The caller has the record locked."""
        ends = sa.func.clock_timestamp() + sa.literal(ttl, sa.Interval)
        insert = upsert(self._rows).values({self._of: uid, "holder": holder, "expires_at": ends})
        statement = insert.on_conflict_do_update(
            index_elements=[self._of, self._rows.c.holder],
            set_={"expires_at": sa.func.greatest(self._rows.c.expires_at, insert.excluded.expires_at)},
        ).returning(self._rows.c.expires_at)
        expires_at: datetime = (await conn.execute(statement)).scalar_one()
        return expires_at

    async def release(self, conn: AsyncConnection, uid: object, holder: str) -> None:
        """End a hold, if there is one."""
        await conn.execute(self._rows.delete().where(self._of == uid, self._rows.c.holder == holder))

    async def holders(self, conn: AsyncConnection, uid: object) -> list[str]:
        """Who reads a record right now."""
        statement = (
            sa.select(self._rows.c.holder)
            .where(self._of == uid, self._rows.c.expires_at > sa.func.clock_timestamp())
            .order_by(self._rows.c.holder)
        )
        return list((await conn.execute(statement)).scalars())

    async def forget(self, conn: AsyncConnection) -> None:
        """Drop the holds that have ended."""
        await conn.execute(self._rows.delete().where(self._rows.c.expires_at <= sa.func.clock_timestamp()))


def resource_held_error(resource: str, holders: Sequence[str]) -> errors.FailedPrecondition:
    """Tell who holds what was to be deleted."""
    named = ", ".join(holders)
    return errors.FailedPrecondition(
        f"{resource} is being read by {named}; wait until that ends, or cancel it.",
        reason="RESOURCE_HELD",
        metadata={"resource": resource, "holders": named[:1000]},
    )


def resource_replaced_error(resource: str, holder: str) -> errors.FailedPrecondition:
    """Return the error for a holder whose resource was recreated."""
    return errors.FailedPrecondition(
        f"{resource} was recreated after {holder} started, so its files have changed. Delete and recreate {holder}.",
        reason="RESOURCE_CHANGED",
        metadata={"resource": resource},
    )
