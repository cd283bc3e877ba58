"""A database at the old schema."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.catalog.server.migrations.schema import runner
from services.runtime.settings import DatabaseSettings
from tests.migrations import legacy


@pytest.fixture
async def before(database_settings: DatabaseSettings) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection, such as old code has, to a database at the old schema."""
    await asyncio.to_thread(runner.upgrade, database_settings)
    await asyncio.to_thread(runner.downgrade, database_settings, "0001")
    connection = await legacy.connect(database_settings.url)
    yield connection
    await connection.close()
