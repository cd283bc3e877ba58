"""Watching a record: what it is now, then every change from whichever replica, until it is at rest.

Changes are told by Postgres (`changes`), live progress by NATS; both may be lost, so the record is also read again
every other second.
"""

import asyncio
import contextlib
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.catalog import changes
from services.catalog.domain import states
from services.runtime.database import Database
from services.runtime.notifications import Listener

_POLL_SECONDS = 2.0
_LIVE_SECONDS = 0.4
_SPACING_SECONDS = 0.2


class _Watched(Protocol):
    @property
    def status(self) -> str: ...

    @property
    def job_id(self) -> uuid.UUID | None: ...

    @property
    def progress(self) -> float: ...


Record = TypeVar("Record", bound=_Watched)
Percent = Callable[[AsyncConnection, uuid.UUID], Awaitable[float]]


class Watch:
    """Wakes the streams that watch a record when it changes."""

    def __init__(self, database: Database, listener: Listener, percent: Percent) -> None:
        self._database = database
        self._percent = percent
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        listener.subscribe(changes.CHANNEL, self._changed)

    def _changed(self, uid: str) -> None:
        woken = self._waiting.get(uid, ()) if uid else [event for events in self._waiting.values() for event in events]
        for event in woken:
            event.set()

    @contextlib.contextmanager
    def _listening(self, uid: str) -> Generator[asyncio.Event]:
        event = asyncio.Event()
        self._waiting[uid].add(event)
        try:
            yield event
        finally:
            self._waiting[uid].discard(event)
            if not self._waiting[uid]:
                del self._waiting[uid]

    async def follow(
        self,
        uid: object,
        lifecycle: states.Lifecycle,
        read: Callable[[AsyncConnection], Awaitable[Record | None]],
    ) -> AsyncGenerator[tuple[Record, float]]:
        """Gives the record and its progress whenever one of the two changed; ends after a terminal state."""
        last: tuple[Record, float] | None = None
        due = time.monotonic()
        with self._listening(str(uid)) as event:
            while True:
                event.clear()
                record, percent = now = await self._look(lifecycle, read, last)
                at_rest = not lifecycle.is_live(record.status)
                early = due - time.monotonic()
                pause = _LIVE_SECONDS if record.status == "PROCESSING" else _POLL_SECONDS
                if now == last:
                    pass
                elif at_rest or early <= 0:
                    yield record, percent
                    last, due = now, time.monotonic() + _SPACING_SECONDS
                else:
                    pause = early
                if at_rest:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await event.wait()

    async def _look(
        self,
        lifecycle: states.Lifecycle,
        read: Callable[[AsyncConnection], Awaitable[Record | None]],
        last: tuple[Record, float] | None,
    ) -> tuple[Record, float]:
        async with self._database.connection() as conn:
            record = await read(conn)
            if record is None:
                raise errors.NotFound("It was deleted while you watched it.")
            percent = record.progress
            if record.status == "PROCESSING" and record.job_id is not None:
                percent = max(percent, states.shown_progress(await self._percent(conn, record.job_id)))
        # A live figure that was lost on the way must not show as a step back.
        if last is not None and last[0].job_id == record.job_id and lifecycle.is_live(record.status):
            percent = max(percent, last[1])
        return record, percent
