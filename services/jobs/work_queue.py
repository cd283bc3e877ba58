"""The work queue as its owners see it: tested with a canary, recreated when it does not work, and its contents."""

import asyncio
import json
import random
import time
from collections.abc import Iterable

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from services.jobs import metrics
from services.jobs.canary import Canary, QueueHealth, describe
from services.runtime import messaging
from services.runtime.telemetry import logging

_REQUEST_SECONDS = 5.0
_PING_SECONDS = 3
_SPREAD_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 2.0
_LAST_PAUSE_SECONDS = 60.0
_CANARIES = 3
"""Canaries sent within the time that a task may wait."""

_AWAY = "NATS does not answer. Jobs still run, but start late."
_BROKEN = (
    "The work queue does not work even after it was recreated: {trouble}. Jobs start late. Check the log of NATS and "
    "the free space on its disk, then restart NATS with an empty store. Nothing is lost: all jobs are in Postgres."
)

_log = logging.get(__name__)


class WorkQueue:
    """The stream of a namespace. `owner` owns the tasks; `seconds` is how long a task may wait."""

    def __init__(
        self, client: Client, subjects: messaging.Subjects, owner: str, seconds: float, health: QueueHealth
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._canary = Canary(client, subjects, owner)
        self._seconds = seconds
        self._health = health
        self._due_at = 0.0
        self._pause = _FIRST_PAUSE_SECONDS

    def suspect(self) -> None:
        """Have the queue tested in the next round, unless it was found broken a moment ago."""
        if not self._health.trouble:
            self._due_at = 0.0

    async def check(self) -> None:
        """Test the queue if a test is due, and recreate it if it does not work. Raise if NATS is unavailable."""
        if time.monotonic() < self._due_at:
            return
        try:
            await self._client.flush(_PING_SECONDS)
        except (nats.errors.Error, OSError):
            self._health.fail(_AWAY)
            raise
        trouble = await self._canary.trouble()
        if trouble:
            # Another owner may have recreated it just now, or the server is slow: one canary may get lost.
            await asyncio.sleep(random.uniform(0, _SPREAD_SECONDS))  # noqa: S311  no secret
            trouble = await self._canary.trouble()
        if trouble:
            trouble = await self._recreate(trouble)
        if trouble:
            self._health.fail(_BROKEN.format(trouble=trouble))
            self._due_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, _LAST_PAUSE_SECONDS)
            return
        if self._health.trouble:
            _log.info("the work queue works again", seconds=round(time.monotonic() - self._health.since, 1))
        self._health.recover()
        self._pause = _FIRST_PAUSE_SECONDS
        self._due_at = time.monotonic() + self._seconds / _CANARIES

    async def recreate(self, trouble: str) -> None:
        """Recreate the queue although canaries pass, and have it tested immediately."""
        await self._recreate(trouble)
        self._due_at = 0.0

    async def _recreate(self, trouble: str) -> str:
        """Recreate the queue; return the remaining problem, or an empty string."""
        if not self._health.trouble:
            _log.warning("recreating the work queue", stream=self._subjects.stream, trouble=trouble)
        metrics.queue_recreated.inc()
        try:
            await messaging.recreate_stream(self._client, self._subjects)
        except (nats.errors.Error, OSError) as error:
            return f"{trouble}; recreating it failed ({describe(error)})"
        return await self._canary.trouble()

    async def pending(self) -> set[str]:
        """Return the subjects that have a message on the queue, according to NATS."""
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

    async def undeliverable(self, kinds: Iterable[str]) -> set[str]:
        """Return the kinds whose consumer has no message to deliver and none in delivery.

        A task of such a kind that the stream lists is hidden: no worker will ever get its message.
        """
        wanted = {self._subjects.kind(kind): kind for kind in kinds}
        found: set[str] = set()
        for info in await self._client.jsm().consumers_info(self._subjects.stream):
            filters = info.config.filter_subjects or [info.config.filter_subject or ""]
            if not info.num_pending and not info.num_ack_pending:
                found |= {wanted[each] for each in filters if each in wanted}
        return found
