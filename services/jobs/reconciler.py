"""The reconciler: repairs whatever got lost between Postgres and the queue.

It ends expired leases, dispatches due tasks again that are neither in the outbox nor on the queue, and recreates a
queue
that is missing or does not work. Every step is idempotent, so any number of replicas may run; an advisory lock merely
saves them the work.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Generator
from datetime import timedelta

import nats.errors
import sqlalchemy as sa
from nats.aio.client import Client

from polytok import errors
from services.jobs import metrics
from services.jobs.store import JobStore
from services.jobs.work_queue import WorkQueue
from services.runtime import messaging
from services.runtime.database import Database
from services.runtime.settings import JobSettings
from services.runtime.telemetry import logging

_EXPIRED_AT_ONCE = 500
_OVERDUE = 500
# Scanning a long queue takes time: spend at most a twentieth of all time on it.
_REST = 20

_log = logging.get(__name__)


class Reconciler:
    """Looks for lost tasks every `reconcile_seconds`, and when woken."""

    def __init__(
        self, database: Database, store: JobStore, client: Client, subjects: messaging.Subjects, settings: JobSettings
    ) -> None:
        self._database = database
        self._store = store
        self._subjects = subjects
        self._bound = settings.redispatch_seconds
        self._queue = WorkQueue(client, subjects, store.owner, self._bound, store.queue_health)
        self._seconds = settings.reconcile_seconds
        self._hidden_after = 0.0
        self._hidden_rounds = 0
        self._woken = asyncio.Event()
        self._rest_until = 0.0
        self._troubles: dict[str, str] = {}

    def wake(self) -> None:
        """Request a full round now."""
        self._rest_until = 0.0
        self._queue.suspect()
        self._woken.set()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            self._woken.clear()
            with self._trouble("database"):
                await self.reconcile()
                await self._publish_metrics()
            messaging.check_cancelled()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._woken.wait()

    async def reconcile(self) -> None:
        """Do one round, unless another replica is doing one."""
        async with self._database.transaction() as guard:
            key = sa.func.hashtextextended(f"reconcile {self._store.tables.jobs.fullname}", 0)
            if not (await guard.execute(sa.select(sa.func.pg_try_advisory_xact_lock(key)))).scalar_one():
                return
            await self._expire()
            with self._trouble("queue"):
                await self._queue.check()
                await self._dispatch_again()

    async def _publish_metrics(self) -> None:
        async with self._database.connection() as conn:
            backlog = await self._store.rows.backlog(conn)
        # No scrape can come in between, so kinds that have disappeared are not reported with their old value.
        metrics.unfinished.clear()
        for kind, state, number in backlog:
            metrics.unfinished.labels(kind, state).set(number)

    async def _expire(self) -> None:
        async with self._database.connection() as conn:
            expired = await self._store.rows.expired(conn, _EXPIRED_AT_ONCE)
        for task_id in expired:
            # One task whose handler fails must not hold up the others.
            try:
                async with self._database.transaction() as conn:
                    lost = await self._store.expire(conn, task_id)
            except (errors.Unavailable, errors.ResourceExhausted):
                raise
            except Exception:
                _log.exception("expired lease could not be ended", task=str(task_id))
                continue
            if lost:
                metrics.leases_expired.inc()
                _log.warning("lease expired", task=str(task_id))

    async def _dispatch_again(self) -> None:
        started = time.monotonic()
        if started < self._rest_until:
            return
        await self._dispatch_lost()
        self._rest_until = time.monotonic() + _REST * (time.monotonic() - started)

    async def _dispatch_lost(self) -> None:
        # Rows are read before the queue, so tasks published in between do not count as lost.
        async with self._database.connection() as conn:
            silent = await self._store.outbox.find_undispatched(conn)
        if not silent:
            return
        pending = await self._queue.pending()
        hidden = await self._hidden()
        lost: dict[uuid.UUID, int] = {
            row.id: row.dispatch
            for row in silent
            if row.kind in hidden or self._subjects.task(row.kind, row.id) not in pending
        }
        if lost:
            async with self._database.transaction() as conn:
                dispatched = await self._store.outbox.redispatch(conn, lost)
                await self._store.wake_dispatcher(conn)
            metrics.redispatched.inc(dispatched)
            _log.warning("tasks are not on the queue; redispatching", tasks=dispatched)

    async def _hidden(self) -> set[str]:
        """Return the kinds whose tasks waited too long while their consumer has nothing, whatever the stream lists."""
        if time.monotonic() < self._hidden_after:
            return set()
        async with self._database.connection() as conn:
            overdue = await self._store.outbox.overdue(conn, None, timedelta(seconds=self._bound), _OVERDUE)
        hidden = await self._queue.undeliverable({row.kind for row in overdue}) if overdue else set()
        # A redispatched message takes a moment; one that is hidden repeatedly means a broken stream.
        self._hidden_rounds = self._hidden_rounds + 1 if hidden else 0
        if hidden:
            self._hidden_after = time.monotonic() + self._bound
        if self._hidden_rounds > 1:
            await self._queue.recreate(f"it hides messages of {', '.join(sorted(hidden))}")
        return hidden

    @contextlib.contextmanager
    def _trouble(self, part: str) -> Generator[None]:
        """Continue the loop without Postgres or NATS, and log that once."""
        try:
            yield
        except (errors.PolytokError, nats.errors.Error, OSError) as error:
            text = f"{type(error).__name__}: {error}"
            if self._troubles.get(part) != text:
                _log.warning("reconciler waits", part=part, error=text)
            self._troubles[part] = text
        else:
            self._troubles.pop(part, None)
