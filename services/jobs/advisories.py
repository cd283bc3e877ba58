"""JetStream advisories about the work queue: logged, counted, and a reason to reconcile immediately."""

import asyncio

from nats.aio.client import Client
from nats.aio.msg import Msg

from services.jobs import metrics
from services.jobs.reconciler import Reconciler
from services.runtime import messaging
from services.runtime.telemetry import logging

_PREFIX = "$JS.EVENT.ADVISORY."
# These happen all the time or are our own doing, and lose no message.
_HARMLESS = frozenset({"STREAM.CREATE", "STREAM.UPDATE", "CONSUMER.CREATE", "CONSUMER.UPDATE", "CONSUMER.MSG_NAKED"})

_log = logging.get(__name__)


class Advisories:
    """Subscribes to the advisories of one stream."""

    def __init__(self, client: Client, subjects: messaging.Subjects, reconciler: Reconciler) -> None:
        self._client = client
        self._stream = subjects.stream
        self._reconciler = reconciler

    async def run(self) -> None:
        """Listen until cancelled."""
        subjects = (f"{_PREFIX}STREAM.*.{self._stream}", f"{_PREFIX}CONSUMER.*.{self._stream}.*")
        subscriptions = [await self._client.subscribe(subject, cb=self._hear) for subject in subjects]
        try:
            await asyncio.Event().wait()
        finally:
            for subscription in subscriptions:
                if not self._client.is_closed:
                    await subscription.unsubscribe()

    async def _hear(self, message: Msg) -> None:
        what = ".".join(message.subject.removeprefix(_PREFIX).split(".")[:2])
        if what in _HARMLESS:
            return
        metrics.advisories.labels(what).inc()
        log = _log.info if what.endswith(".CREATED") else _log.warning
        log("advisory on the work queue", what=what, advisory=message.data.decode(errors="replace"))
        self._reconciler.wake()
