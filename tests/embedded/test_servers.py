"""The embedded servers: what they accept, and whom."""

import asyncpg
import nats
import nats.aio.client
import nats.errors
import pytest

from services.embedded.nats import Nats
from services.embedded.postgres import Postgres
from tests.support import databases


async def test_postgres_serves_with_the_password_only(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.url)
    assert await connection.fetchval("SELECT current_setting('fsync')") == "off"
    assert await connection.fetchval("SELECT current_database()") == "polytok"
    assert await connection.fetchval("SHOW data_checksums") == "on"
    await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres.url.replace(":for-tests-only@", ":wrong@"))


async def test_each_database_is_its_own_and_goes(postgres: Postgres) -> None:
    async with databases.fresh(postgres) as first, databases.fresh(postgres) as second:
        one, two = await asyncpg.connect(first), await asyncpg.connect(second)
        await one.execute("CREATE TABLE only_here ()")
        assert await two.fetchval("SELECT to_regclass('only_here')") is None
        await one.close()
        await two.close()
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(first)


async def test_nats_has_jetstream_and_wants_the_password(nats_server: Nats) -> None:
    client = await nats.connect(nats_server.url)
    assert (await client.jetstream().account_info()).streams >= 0
    await client.close()
    stranger = nats.aio.client.Client()
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        await stranger.connect(nats_server.url.replace(":for-tests-only@", ":wrong@"), allow_reconnect=False)
    await stranger.close()
