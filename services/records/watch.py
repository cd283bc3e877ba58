"""Watching a record: what it is now, then every change from whichever replica, until it is at rest.

Changes come from Postgres (`services.runtime.notifications`), live progress from NATS; both may be lost, so the
record is also read again every other second.
"""

import asyncio
import contextlib
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.records.lifecycle import Lifecycle, shown_progress
from services.runtime.database import Database
from services.runtime.notifications import Listener
from services.runtime.throttle import Throttle

_POLL_SECONDS = 2.0
_SPACING_SECONDS = 0.2


class _Watched(Protocol):
    @property
    def status(self) -> str: ...

    @property
    def job_id(self) -> uuid.UUID | None: ...

    @property
    def progress(self) -> float: ...


Record = TypeVar("Record", bound=_Watched)


class ProgressSource(Protocol):
    """Where live progress is heard (`services.jobs.progress.ProgressHub`)."""

    def subscribe(self, job_id: uuid.UUID, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back with every report on a job; the answer ends that."""

    async def percent(self, conn: AsyncConnection, job_id: uuid.UUID) -> float:
        """Return how far a job is, from 0 to 100."""


class Watch:
    """Wakes the streams that watch a record when it changes.

    `channel` is the Postgres channel on which the service publishes the uids of records that changed.
    """

    def __init__(self, database: Database, listener: Listener, channel: str) -> None:
        self._database = database
        self._live: ProgressSource | None = None
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        listener.subscribe(channel, self._changed)

    def hear(self, live: ProgressSource) -> None:
        """Show live progress from now on; until then, what the records say."""
        self._live = live

    def _changed(self, uid: str) -> None:
        woken = self._waiting.get(uid, ()) if uid else [event for events in self._waiting.values() for event in events]
        for event in woken:
            event.set()

    @contextlib.contextmanager
    def listening(self, uid: str) -> Generator[asyncio.Event]:
        """Return an event that is set whenever a uid is published, and whenever wake-ups may have been lost."""
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
        lifecycle: Lifecycle,
        read: Callable[[AsyncConnection], Awaitable[Record | None]],
    ) -> AsyncGenerator[tuple[Record, float]]:
        """Return the record and its progress whenever one of the two changed; ends after a terminal state."""
        last: tuple[Record, float] | None = None
        spacing = Throttle(_SPACING_SECONDS)
        with self.listening(str(uid)) as event, _Reports(event) as reports:
            while True:
                event.clear()
                record, percent = now = await self._look(lifecycle, read, last)
                reports.hear(self._live, record)
                at_rest = not lifecycle.is_live(record.status)
                early = spacing.seconds_left()
                pause = _POLL_SECONDS
                if now == last:
                    pass
                elif at_rest or early <= 0:
                    yield record, percent
                    last = now
                    spacing.restart()
                else:
                    pause = early
                if at_rest:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await event.wait()

    async def _look(
        self,
        lifecycle: Lifecycle,
        read: Callable[[AsyncConnection], Awaitable[Record | None]],
        last: tuple[Record, float] | None,
    ) -> tuple[Record, float]:
        async with self._database.connection() as conn:
            record = await read(conn)
            if record is None:
                raise errors.NotFound("It was deleted while you watched it.")
            percent = record.progress
            if record.status == "PROCESSING" and record.job_id is not None and self._live is not None:
                percent = max(percent, shown_progress(await self._live.percent(conn, record.job_id)))
        # A live figure that was lost on the way must not show as a step back.
        if last is not None and last[0].job_id == record.job_id and lifecycle.is_live(record.status):
            percent = max(percent, last[1])
        return record, percent


class _Reports:
    """Sets an event with every live report on the job that a record has at the time."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event
        self._job_id: uuid.UUID | None = None
        self._unsubscribe: Callable[[], None] = _nothing

    def __enter__(self) -> "_Reports":
        return self

    def hear(self, live: ProgressSource | None, record: _Watched) -> None:
        """Turn to the record's job."""
        if live is None or record.job_id is None or record.job_id == self._job_id:
            return
        self._unsubscribe()
        self._job_id = record.job_id
        self._unsubscribe = live.subscribe(record.job_id, self._event.set)

    def __exit__(self, *_: object) -> None:
        self._unsubscribe()


def _nothing() -> None:
    pass
