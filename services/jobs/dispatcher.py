"""The dispatcher: publishes a message for every due outbox row, and notifies workers when a job ends."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from typing import Any

import nats.errors
import sqlalchemy as sa
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import NoStreamResponseError

from polytok import errors
from polytok.jobs.v1 import messages_pb2
from services.jobs import metrics
from services.jobs.store import CHANNEL, STOP, JobStore
from services.runtime import messaging
from services.runtime.database import Database
from services.runtime.notifications import Listener
from services.runtime.telemetry import logging

_POLL_SECONDS = 1.0
_PUBLISH_SECONDS = 2.0
_BATCH = 200

_log = logging.get(__name__)


class Dispatcher:
    """Publishes the rows of the outbox. Any number of dispatchers may run over one outbox."""

    def __init__(
        self,
        database: Database,
        store: JobStore,
        client: Client,
        subjects: messaging.Subjects,
        listener: Listener,
        *,
        alarm: Callable[[], None] = lambda: None,
    ) -> None:
        """`alarm` is called when the queue does not accept a message."""
        self._database = database
        self._store = store
        self._client = client
        self._subjects = subjects
        self._listener = listener
        self._alarm = alarm
        self._woken = asyncio.Event()
        self._stopped: set[str] = set()
        self._troubled = False

    async def run(self) -> None:
        """Dispatch until cancelled."""
        unsubscribe = self._listener.subscribe(CHANNEL, self._hear)
        try:
            while True:
                self._woken.clear()
                pause = await self._round()
                messaging.check_cancelled()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
        finally:
            unsubscribe()

    def _hear(self, payload: str) -> None:
        if payload.startswith(STOP):
            self._stopped.add(payload.removeprefix(STOP))
        self._woken.set()

    async def _round(self) -> float:
        """Publish everything that is due, and return the seconds until the next row is."""
        try:
            await self._publish_stops()
            pause = await self._dispatch_due()
        except (errors.PolytokError, nats.errors.Error, OSError) as error:
            if not self._troubled:
                _log.warning("dispatcher waits", error=f"{type(error).__name__}: {error}")
            self._troubled = True
            return _POLL_SECONDS
        if self._troubled:
            _log.info("dispatcher continues")
        self._troubled = False
        return pause

    async def _publish_stops(self) -> None:
        stopped, self._stopped = self._stopped, set()
        if self._client.is_connected:
            for job_id in stopped:
                event = messages_pb2.StopEvent(job_id=job_id)
                await self._client.publish(self._subjects.stop(job_id), event.SerializeToString())

    async def _dispatch_due(self) -> float:
        while True:
            async with self._database.connection() as conn:
                pause = await self._store.outbox.next_due(conn)
            if pause is None or pause > 0:
                return _POLL_SECONDS if pause is None else min(_POLL_SECONDS, pause)
            if not self._client.is_connected:
                raise errors.Unavailable("NATS cannot be reached; tasks wait in the outbox.")
            if not await self._dispatch_batch():
                # Another dispatcher has locked them.
                return _POLL_SECONDS

    async def _dispatch_batch(self) -> int:
        async with self._database.transaction() as conn:
            due = await self._store.outbox.lock_due(conn, _BATCH)
            answers = await asyncio.gather(*(self._dispatch(row) for row in due), return_exceptions=True)
            failures = [answer for answer in answers if isinstance(answer, BaseException)]
            await self._store.outbox.drop(
                conn, [row for row, answer in zip(due, answers, strict=True) if not isinstance(answer, BaseException)]
            )
        if failures:
            await self._recover(failures[0])
            raise failures[0]
        return len(due)

    async def _dispatch(self, row: sa.Row[Any]) -> None:
        if not row.live:
            # The task is gone, or has been leased without this dispatch.
            return
        message = messages_pb2.TaskMessage(
            task_id=str(row.task_id), owner=self._store.owner, kind=row.kind, dispatch=row.dispatch
        )
        await self._client.jetstream().publish(
            self._subjects.task(row.kind, row.task_id),
            message.SerializeToString(),
            timeout=_PUBLISH_SECONDS,
            headers={**row.trace, api.Header.MSG_ID.value: message_id(row.task_id, row.dispatch)},
        )
        metrics.dispatched.inc()

    async def _recover(self, failure: BaseException) -> None:
        if isinstance(failure, NoStreamResponseError):
            _log.warning("work queue is missing; recreating it", stream=self._subjects.stream)
            await messaging.ensure_stream(self._client, self._subjects)
            self._woken.set()
        elif self._client.is_connected:
            self._alarm()


def message_id(task_id: uuid.UUID, dispatch: int) -> str:
    """Return the Nats-Msg-Id: a dispatch published twice counts once, and never for a later dispatch."""
    return f"{task_id}:{dispatch}"
