"""Rows of fast engines that gave other ids than the reference for a tokenizer."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.tokenizer.v1 import tasks_pb2
from services.catalog.server import tables

_table = tables.distrusted_engines


async def distrust(conn: AsyncConnection, found: tasks_pb2.EngineMismatch, resource: str) -> None:
    """Keep that an engine is not exact, found in the tokenization `resource`; the first finding stays."""
    values = {
        "tokenizer_fingerprint": found.tokenizer_fingerprint,
        "engine": found.engine,
        "detail": found.detail,
        "found_in": resource,
    }
    await conn.execute(upsert(_table).values(values).on_conflict_do_nothing())


async def distrusted(conn: AsyncConnection, fingerprint: str) -> list[str]:
    """Return the engines that are not exact for a tokenizer, each with its version, in order."""
    statement = sa.select(_table.c.engine).where(_table.c.tokenizer_fingerprint == fingerprint)
    return list((await conn.execute(statement.order_by(_table.c.engine))).scalars())
