"""Postgres LISTEN and NOTIFY: wake-ups between replicas.

A wake-up may be lost while the listener reconnects or the queue overflows, so a waiting loop also polls.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.runtime.settings import DatabaseSettings
from services.runtime.telemetry import logging

_log = logging.get(__name__)

Callback = Callable[[str], None]

_NOTIFY = sa.text("SELECT pg_notify(:channel, :payload)")
_CONNECT_SECONDS = 10
_CHECK_SECONDS = 15
_FIRST_DELAY_SECONDS = 0.1
_LAST_DELAY_SECONDS = 5


async def notify(conn: AsyncConnection, channel: str, payload: str) -> None:
    """Wake the channel's listeners when the transaction commits."""
    await conn.execute(_NOTIFY, {"channel": channel, "payload": payload})


class Listener:
    """Listens on its own connection, and reconnects when that is lost.

    After every new LISTEN each callback of the channel is called with "": anything may have changed.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._url = settings.url
        self._callbacks: defaultdict[str, list[Callback]] = defaultdict(list)
        self._changed = asyncio.Event()

    def subscribe(self, channel: str, callback: Callback) -> Callable[[], None]:
        """Call the callback with the payload of every wake-up. Return a function that unsubscribes."""
        self._callbacks[channel].append(callback)
        self._changed.set()

        def unsubscribe() -> None:
            if callback in self._callbacks[channel]:
                self._callbacks[channel].remove(callback)

        return unsubscribe

    async def run(self) -> None:
        """Listen until cancelled."""
        delay: float = _FIRST_DELAY_SECONDS
        while True:
            try:
                connection = await asyncpg.connect(
                    self._url, timeout=_CONNECT_SECONDS, server_settings={"application_name": "polytok-listener"}
                )
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning("listener cannot connect", error=f"{type(error).__name__}: {error}", seconds=delay)
            else:
                delay = _FIRST_DELAY_SECONDS
                await self._listen(connection)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 (spreads reconnects, hides nothing)
            delay = min(delay * 2, _LAST_DELAY_SECONDS)

    async def _listen(self, connection: Any) -> None:
        connection.add_termination_listener(lambda _connection: self._changed.set())
        listening: set[str] = set()
        try:
            while True:
                # Cleared first, so that the next round sees whatever changes from here on.
                self._changed.clear()
                await self._listen_to_new_channels(connection, listening)
                try:
                    async with asyncio.timeout(_CHECK_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    # A connection dropped by a firewall looks like an idle one.
                    await connection.execute("SELECT 1", timeout=_CONNECT_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            _log.warning("listener lost its connection", error=f"{type(error).__name__}: {error}")
        finally:
            connection.terminate()

    async def _listen_to_new_channels(self, connection: Any, listening: set[str]) -> None:
        if connection.is_closed():
            raise asyncpg.InterfaceError("connection is closed")
        for channel in [each for each in self._callbacks if each not in listening]:
            await connection.add_listener(channel, self._received)
            listening.add(channel)
            self._call(channel, "")

    def _received(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        self._call(channel, payload)

    def _call(self, channel: str, payload: str) -> None:
        for callback in tuple(self._callbacks[channel]):
            try:
                callback(payload)
            except Exception:
                _log.exception("a listener's callback failed", channel=channel)
