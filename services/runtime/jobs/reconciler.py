"""The reconciler: makes good whatever got lost between Postgres and the queue.

Leases that ran out go back; tasks that are due and ring nowhere, not in the outbox and not on the queue, are rung
again; a queue that is gone is made again. Every step bears being done twice, so any number of replicas may run: the
advisory lock only spares them the work.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Generator

import nats.errors
import nats.js.errors
import sqlalchemy as sa
from nats.aio.client import Client

from polytok import errors
from services.runtime import messaging
from services.runtime.database import Database
from services.runtime.jobs import metrics
from services.runtime.jobs.store import JobStore
from services.runtime.settings import JobSettings
from services.runtime.telemetry import logging

_EXPIRED_AT_ONCE = 500
# Looking through a long queue takes its time: no more than a twentieth of it all.
_REST = 20
_REQUEST_SECONDS = 5.0

_log = logging.get(__name__)


class Reconciler:
    """Looks for lost tasks every `reconcile_seconds`, and when it is woken."""

    def __init__(
        self, database: Database, store: JobStore, client: Client, subjects: messaging.Subjects, settings: JobSettings
    ) -> None:
        self._database = database
        self._store = store
        self._client = client
        self._subjects = subjects
        self._seconds = settings.reconcile_seconds
        self._woken = asyncio.Event()
        self._rest_until = 0.0
        self._troubles: dict[str, str] = {}

    def wake(self) -> None:
        """Asks for a whole round now."""
        self._rest_until = 0.0
        self._woken.set()

    async def run(self) -> None:
        """Reconciles until it is cancelled."""
        while True:
            self._woken.clear()
            with self._trouble("database"):
                await self.reconcile()
                await self._tell()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._woken.wait()

    async def reconcile(self) -> None:
        """Does one round, unless another replica is at it."""
        async with self._database.transaction() as guard:
            key = sa.func.hashtextextended(f"reconcile {self._store.tables.jobs.fullname}", 0)
            if not (await guard.execute(sa.select(sa.func.pg_try_advisory_xact_lock(key)))).scalar_one():
                return
            await self._expire()
            with self._trouble("queue"):
                await self._mend_queue()
                await self._ring_again()

    async def _tell(self) -> None:
        async with self._database.connection() as conn:
            backlog = await self._store.rows.backlog(conn)
        # No scrape comes between: what is not there any more is not told as it was.
        metrics.unfinished.clear()
        for kind, state, number in backlog:
            metrics.unfinished.labels(kind, state).set(number)

    async def _expire(self) -> None:
        async with self._database.connection() as conn:
            expired = await self._store.rows.expired(conn, _EXPIRED_AT_ONCE)
        for task_id in expired:
            # One task whose handler fails must not keep the others.
            try:
                async with self._database.transaction() as conn:
                    lost = await self._store.expire(conn, task_id)
            except errors.Unavailable:
                raise
            except Exception:
                _log.exception("a lost task could not be taken back", task=str(task_id))
                continue
            if lost:
                metrics.leases_expired.inc()
                _log.warning("lease ran out", task=str(task_id))

    async def _mend_queue(self) -> None:
        if not await messaging.stream_exists(self._client, self._subjects):
            _log.warning("the work queue is gone; making it again", stream=self._subjects.stream)
            await messaging.ensure_stream(self._client, self._subjects)

    async def _ring_again(self) -> None:
        started = time.monotonic()
        if started < self._rest_until:
            return
        await self._ring_lost()
        self._rest_until = time.monotonic() + _REST * (time.monotonic() - started)

    async def _ring_lost(self) -> None:
        # The rows are read before the queue: what was put on the queue in between then is no loss.
        async with self._database.connection() as conn:
            silent = await self._store.outbox.silent(conn)
        if not silent:
            return
        pending = await self._pending()
        lost: dict[uuid.UUID, int] = {
            row.id: row.dispatch for row in silent if self._subjects.task(row.kind, row.id) not in pending
        }
        if lost:
            async with self._database.transaction() as conn:
                rung = await self._store.outbox.ring_again(conn, lost)
                await self._store.wake_relay(conn)
            metrics.rung_again.inc(rung)
            _log.warning("doorbells got lost; ringing again", tasks=rung)

    async def _pending(self) -> set[str]:
        """The subjects that have a message on the queue."""
        pending: set[str] = set()
        while True:
            query = {"subjects_filter": self._subjects.tasks[0], "offset": len(pending)}
            answer = await self._client.request(
                f"$JS.API.STREAM.INFO.{self._subjects.stream}", json.dumps(query).encode(), timeout=_REQUEST_SECONDS
            )
            page = json.loads(answer.data)
            if "error" in page:
                raise nats.js.errors.APIError.from_error(page["error"])
            subjects = page["state"].get("subjects") or {}
            pending |= subjects.keys()
            if not subjects or len(pending) >= page.get("total", 0):
                return pending

    @contextlib.contextmanager
    def _trouble(self, part: str) -> Generator[None]:
        """Lets the loop go on without Postgres or NATS, and says so once."""
        try:
            yield
        except (errors.Unavailable, nats.errors.Error, OSError) as error:
            text = f"{type(error).__name__}: {error}"
            if self._troubles.get(part) != text:
                _log.warning("reconciler waits", part=part, error=text)
            self._troubles[part] = text
        else:
            self._troubles.pop(part, None)
