"""The trainer's schema: made, checked, and taken away again."""

import asyncio

import asyncpg
import pytest

from polytok import errors
from services.runtime.settings import DatabaseSettings
from services.trainer.server.migrations.schema import runner
from tests.support import messages


async def test_upgrade_and_downgrade(database_settings: DatabaseSettings) -> None:
    await asyncio.to_thread(runner.upgrade, database_settings)
    await asyncio.to_thread(runner.upgrade, database_settings)
    await asyncio.to_thread(runner.check, database_settings)
    connection = await asyncpg.connect(database_settings.url)
    try:
        await connection.execute(
            "INSERT INTO trainer.trainings (id, name, source, saes, parameters) "
            "VALUES (gen_random_uuid(), 'one', '{}', '[]', '{}')"
        )
        with pytest.raises(errors.FailedPrecondition) as caught:
            await asyncio.to_thread(runner.downgrade, database_settings, "base")
        messages.check_names(caught.value.message, "0001", 1, "`polytok training delete`")
        await connection.execute("DELETE FROM trainer.trainings")
    finally:
        await connection.close()
    await asyncio.to_thread(runner.downgrade, database_settings, "base")
    assert await asyncio.to_thread(runner.current, database_settings) is None
