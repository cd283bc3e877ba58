"""Waiting for those who wait for a lock."""

import asyncio

import sqlalchemy as sa

from tests.catalog import harness

_WAITING = sa.text(
    "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE NOT granted AND datname = current_database()"
)


async def queued(catalog: harness.CatalogHarness, count: int) -> None:
    """Return once so many transactions wait for a lock."""
    async with asyncio.timeout(60):
        while True:
            async with catalog.database.connection() as conn:
                if (await conn.execute(_WAITING)).scalar_one() >= count:
                    return
            await asyncio.sleep(0.02)
