"""Rows of who reads a tokenization right now: holds, which end by the database's clock."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog import tables

_table = tables.tokenization_holds


async def hold(conn: AsyncConnection, uid: str, holder: str, ttl: timedelta) -> datetime:
    """Makes or prolongs a hold, never shortens it; tells when it ends. The caller has the tokenization locked."""
    insert = upsert(_table).values(
        tokenization_id=uid, holder=holder, expires_at=sa.func.clock_timestamp() + sa.literal(ttl, sa.Interval)
    )
    statement = insert.on_conflict_do_update(
        index_elements=[_table.c.tokenization_id, _table.c.holder],
        set_={"expires_at": sa.func.greatest(_table.c.expires_at, insert.excluded.expires_at)},
    ).returning(_table.c.expires_at)
    expires_at: datetime = (await conn.execute(statement)).scalar_one()
    return expires_at


async def release(conn: AsyncConnection, uid: str, holder: str) -> None:
    """Ends a hold, if there is one."""
    await conn.execute(_table.delete().where(_table.c.tokenization_id == uid, _table.c.holder == holder))


async def holders(conn: AsyncConnection, uid: str) -> list[str]:
    """Who reads a tokenization right now."""
    statement = (
        sa.select(_table.c.holder)
        .where(_table.c.tokenization_id == uid, _table.c.expires_at > sa.func.clock_timestamp())
        .order_by(_table.c.holder)
    )
    return list((await conn.execute(statement)).scalars())


async def forget(conn: AsyncConnection) -> None:
    """Drops the holds that have ended."""
    await conn.execute(_table.delete().where(_table.c.expires_at <= sa.func.clock_timestamp()))
