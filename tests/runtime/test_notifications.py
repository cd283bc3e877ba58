"""Wake-ups arrive at commit, and after a reconnect every listener wakes up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from services.runtime import notifications, settings
from services.runtime.database import Database, open_database
from tests.support import tasks


class Heard:
    """What a callback was called with."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, payload: str) -> None:
        self.queue.put_nowait(payload)

    async def next(self) -> str:
        async with asyncio.timeout(60):
            return await self.queue.get()


@pytest.fixture
async def plain(database_settings: settings.DatabaseSettings) -> AsyncIterator[Database]:
    database = open_database(database_settings)
    yield database
    await database.close()


@pytest.fixture
async def listener(database_settings: settings.DatabaseSettings) -> AsyncIterator[notifications.Listener]:
    listener = notifications.Listener(database_settings)
    task = asyncio.create_task(listener.run())
    yield listener
    await tasks.end(task)


async def test_a_wake_up_arrives_at_commit(plain: Database, listener: notifications.Listener) -> None:
    heard, other = Heard(), Heard()
    listener.subscribe("jobs", heard)
    listener.subscribe("catalog", other)
    assert await heard.next() == await other.next() == ""
    async with plain.transaction() as conn:
        await notifications.notify(conn, "jobs", "before commit")
        async with plain.transaction() as second:
            await notifications.notify(second, "jobs", "other")
    assert [await heard.next(), await heard.next()] == ["other", "before commit"]
    assert other.queue.empty()


async def test_a_rolled_back_wake_up_never_arrives(plain: Database, listener: notifications.Listener) -> None:
    heard = Heard()
    listener.subscribe("jobs", heard)
    await heard.next()
    with contextlib.suppress(ZeroDivisionError):
        async with plain.transaction() as conn:
            await notifications.notify(conn, "jobs", "lost")
            raise ZeroDivisionError
    async with plain.transaction() as conn:
        await notifications.notify(conn, "jobs", "kept")
    assert await heard.next() == "kept"


async def test_a_channel_can_be_added_later_and_left(plain: Database, listener: notifications.Listener) -> None:
    first, second = Heard(), Heard()
    leave = listener.subscribe("jobs", first)
    await first.next()
    listener.subscribe("catalog", second)
    assert await second.next() == ""
    leave()
    async with plain.transaction() as conn:
        await notifications.notify(conn, "jobs", "nobody")
        await notifications.notify(conn, "catalog", "somebody")
    assert await second.next() == "somebody"
    assert first.queue.empty()


async def test_reconnect_notifies_all_listeners(plain: Database, listener: notifications.Listener) -> None:
    heard = Heard()
    listener.subscribe("jobs", heard)
    await heard.next()
    async with plain.connection() as conn:
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'polytok-listener'"
        # Other tests' databases are on this server too.
        await conn.execute(sa.text(f"{kill} AND datname = current_database()"))
    assert await heard.next() == ""
    async with plain.transaction() as conn:
        await notifications.notify(conn, "jobs", "again")
    assert await heard.next() == "again"


async def test_a_callback_that_fails_harms_no_other(plain: Database, listener: notifications.Listener) -> None:
    def broken(payload: str) -> None:
        raise RuntimeError(payload)

    heard = Heard()
    listener.subscribe("jobs", broken)
    listener.subscribe("jobs", heard)
    await heard.next()
    async with plain.transaction() as conn:
        await notifications.notify(conn, "jobs", "x")
    assert await heard.next() == "x"
