"""The database commits, rolls back, and says Unavailable when it is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from polytok import errors
from services.embedded import ports
from services.runtime import settings
from services.runtime.database import Database, open_database

TABLE = sa.text("CREATE TABLE things (id integer PRIMARY KEY)")
INSERT = sa.text("INSERT INTO things VALUES (:id)")
COUNT = sa.text("SELECT count(*) FROM things")


@pytest.fixture
async def empty(database_settings: settings.DatabaseSettings) -> AsyncIterator[Database]:
    database = open_database(database_settings.model_copy(update={"pool_size": 2}))
    async with database.transaction() as conn:
        await conn.execute(TABLE)
    yield database
    await database.close()


async def count(database: Database) -> int:
    async with database.connection() as conn:
        return (await conn.execute(COUNT)).scalar_one()


async def test_commit_and_rollback(empty: Database) -> None:
    async with empty.transaction() as conn:
        await conn.execute(INSERT, {"id": 1})
    with contextlib.suppress(ZeroDivisionError):
        async with empty.transaction() as conn:
            await conn.execute(INSERT, {"id": 2})
            raise ZeroDivisionError
    assert await count(empty) == 1


async def test_cancelled_transaction_frees_connection(empty: Database) -> None:
    inside = asyncio.Event()

    async def hold() -> None:
        async with empty.transaction() as conn:
            await conn.execute(INSERT, {"id": 1})
            inside.set()
            await conn.execute(sa.text("SELECT pg_sleep(60)"))

    # More often than there are connections in the pool.
    for _ in range(4):
        inside.clear()
        task = asyncio.create_task(hold())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await count(empty) == 0


async def test_a_read_opens_no_transaction(empty: Database) -> None:
    async with empty.connection() as conn:
        first = (await conn.execute(sa.text("SELECT now()"))).scalar_one()
        second = (await conn.execute(sa.text("SELECT now()"))).scalar_one()
    assert first < second
    # The same connections serve transactions, where now() stands still.
    async with empty.transaction() as conn:
        first = (await conn.execute(sa.text("SELECT now()"))).scalar_one()
        assert first == (await conn.execute(sa.text("SELECT now()"))).scalar_one()


async def test_a_broken_constraint_passes_unchanged(empty: Database) -> None:
    async def twice() -> None:
        async with empty.transaction() as conn:
            await conn.execute(INSERT, {"id": 1})
            await conn.execute(INSERT, {"id": 1})

    with pytest.raises(sa.exc.IntegrityError):
        await twice()


async def test_a_server_that_is_not_there() -> None:
    database = open_database(
        settings.DatabaseSettings(url=f"postgresql://polytok:hunter2@127.0.0.1:{ports.free_port()}/polytok")
    )
    assert not await database.check()
    with pytest.raises(errors.Unavailable, match="answer") as caught:
        async with database.transaction():
            pass
    assert caught.value.retryable
    assert "hunter2" not in caught.value.message
    await database.close()


async def test_a_wrong_password_is_no_reason_to_wait(database_settings: settings.DatabaseSettings) -> None:
    url = sa.make_url(database_settings.url).set(password="wrong")
    database = open_database(settings.DatabaseSettings(url=url.render_as_string(hide_password=False)))
    with pytest.raises(errors.FailedPrecondition, match="POLYTOK_DATABASE_URL"):
        async with database.transaction():
            pass
    await database.close()


async def test_no_free_connection(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(empty.engine.sync_engine.pool, "_timeout", 0.05)
    async with empty.transaction(), empty.transaction():
        with pytest.raises(errors.Unavailable, match="connection"):
            async with empty.connection():
                pass
    assert await count(empty) == 0


async def test_a_lost_connection_is_replaced(empty: Database, database_settings: settings.DatabaseSettings) -> None:
    other = open_database(database_settings)

    async def lose() -> None:
        async with empty.transaction() as conn:
            pid = (await conn.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one()
            async with other.connection() as killer:
                await killer.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            await conn.execute(COUNT)

    with pytest.raises(errors.Unavailable, match="answer"):
        await lose()
    assert await count(empty) == 0
    await other.close()


async def test_losing_a_race_may_be_tried_again(empty: Database) -> None:
    async with empty.transaction() as conn:
        await conn.execute(INSERT, {"id": 1})

    async def race() -> None:
        async with empty.transaction() as first, empty.transaction() as second:
            await first.execute(sa.text("SELECT * FROM things FOR UPDATE"))
            await second.execute(sa.text("SET LOCAL lock_timeout = '10ms'"))
            await second.execute(sa.text("SELECT * FROM things FOR UPDATE"))

    with pytest.raises(errors.Unavailable, match="55P03") as caught:
        await race()
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("state", "kind", "reason", "word"),
    [
        ("53100", errors.ResourceExhausted, "DISK_FULL", "disk"),
        ("53200", errors.Unavailable, "UNAVAILABLE", "memory"),
        ("53300", errors.Unavailable, "UNAVAILABLE", "connections"),
    ],
)
async def test_server_resource_errors_are_mapped(
    empty: Database, state: str, kind: type[errors.PolytokError], reason: str, word: str
) -> None:
    async def run_short() -> None:
        async with empty.transaction() as conn:
            await conn.execute(sa.text(f"DO $$ BEGIN RAISE EXCEPTION 'short' USING ERRCODE = '{state}'; END $$"))

    with pytest.raises(kind, match=word) as caught:
        await run_short()
    assert (caught.value.reason, caught.value.retryable) == (reason, True)
