"""Live progress: the rows' figures, overlaid by what workers have reported since."""

import asyncio
import dataclasses
import time
import uuid
from collections import defaultdict
from collections.abc import Callable

from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok.jobs.v1 import messages_pb2
from services.jobs.model import TaskProgress
from services.jobs.store import JobStore
from services.runtime import messaging

_KEPT_SECONDS = 60.0

Callback = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class _Live:
    epoch: int
    done: int
    total: int
    heard_at: float


class ProgressHub:
    """Subscribes to the progress of every task of the namespace."""

    def __init__(self, client: Client, subjects: messaging.Subjects, store: JobStore) -> None:
        self._client = client
        self._subjects = subjects
        self._store = store
        self._live: dict[uuid.UUID, _Live] = {}
        self._callbacks: defaultdict[uuid.UUID, list[Callback]] = defaultdict(list)

    async def run(self) -> None:
        """Listen until cancelled."""
        subscription = await self._client.subscribe(self._subjects.progress("*"), cb=self._hear)
        try:
            while True:
                await asyncio.sleep(_KEPT_SECONDS)
                self._forget(time.monotonic() - _KEPT_SECONDS)
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()

    def subscribe(self, job_id: uuid.UUID, callback: Callback) -> Callable[[], None]:
        """Call back whenever a task of the job reports progress. Return a function that unsubscribes."""
        self._callbacks[job_id].append(callback)

        def unsubscribe() -> None:
            callbacks = self._callbacks[job_id]
            if callback in callbacks:
                callbacks.remove(callback)
            if not callbacks:
                del self._callbacks[job_id]

        return unsubscribe

    async def percent(self, conn: AsyncConnection, job_id: uuid.UUID) -> float:
        """Return the progress of a job from 0 to 100: `JobStore.percent`, but seconds fresher."""
        standing = await self._store.rows.job_progress(conn, job_id)
        if standing is None:
            return 0.0
        running = [self._overlaid(share) for share in standing.running]
        return dataclasses.replace(standing, running=running).percent()

    def _overlaid(self, share: TaskProgress) -> TaskProgress:
        live = self._live.get(share.task_id)
        if live is None or live.epoch != share.epoch or live.done < share.done:
            return share
        return dataclasses.replace(share, done=live.done, total=live.total)

    async def _hear(self, message: Msg) -> None:
        try:
            event = messages_pb2.ProgressEvent.FromString(message.data)
            task_id, job_id = uuid.UUID(event.task_id), uuid.UUID(event.job_id)
        except (DecodeError, ValueError):
            # Progress may be lost, and so may an invalid message.
            return
        known = self._live.get(task_id)
        if known is not None and (event.epoch, event.progress.done) < (known.epoch, known.done):
            return
        self._live[task_id] = _Live(event.epoch, event.progress.done, event.progress.total, time.monotonic())
        for callback in tuple(self._callbacks.get(job_id, ())):
            callback()

    def _forget(self, before: float) -> None:
        self._live = {task_id: live for task_id, live in self._live.items() if live.heard_at >= before}
