"""Ask the owners for tasks that have waited too long, so that no state of the queue can stop a job.

The queue only announces tasks early. What it lost, hides or cannot deliver, the owners know: every worker asks them a
few
times within the time that a task may wait, also between two tasks.
"""

import random
import time
from collections.abc import Mapping, Sequence

import grpc.aio

from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc, messages_pb2
from services.jobs import metrics
from services.runtime.telemetry import logging

_TIMES = 3
"""How often owners are asked within the time that a task may wait."""
_AWAY_SECONDS = 2.0
"""Longest interval while the queue is unavailable."""
_CALL_SECONDS = 5.0

_log = logging.get(__name__)


class OverduePoller:
    """Asks every owner for overdue tasks of some kinds; `seconds` is how long a task may wait."""

    def __init__(
        self, owners: Mapping[str, "leases_pb2_grpc.LeaseServiceAsyncStub"], kinds: Sequence[str], seconds: float
    ) -> None:
        self._owners = owners
        self._kinds = kinds
        self._interval = seconds / _TIMES
        self._asked_at = time.monotonic()
        self._pause = 0.0
        self._rest(self._asked_at)

    def seconds(self, *, queue_unavailable: bool) -> float:
        """Return the seconds until the next poll, fewer while the queue is unavailable; 0 or less means now."""
        pause = min(self._pause, _AWAY_SECONDS) if queue_unavailable else self._pause
        return self._asked_at + pause - time.monotonic()

    async def ask(self, *, queue_unavailable: bool) -> list[messages_pb2.TaskMessage]:
        """Return overdue tasks, or all that wait. Skip owners that are unavailable or too old to answer."""
        self._rest(time.monotonic())
        request = leases_pb2.ListOverdueTasksRequest(kinds=self._kinds, queue_unavailable=queue_unavailable)
        found = []
        for owner, stub in self._owners.items():
            try:
                answer = await stub.ListOverdueTasks(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                _log.debug("owner did not list overdue tasks", owner=owner, error=error.details())
                continue
            found += [messages_pb2.TaskMessage(task_id=task_id, owner=owner) for task_id in answer.task_ids]
        # Shuffled, so that workers asking at the same time do not all try the same task.
        random.shuffle(found)
        return found

    def taken(self) -> None:
        """Record that an overdue task was leased: there may be more, so ask again immediately."""
        metrics.overdue.inc()
        self._pause = 0.0

    def _rest(self, now: float) -> None:
        self._asked_at, self._pause = now, self._interval * random.uniform(0.7, 1.0)  # noqa: S311  no secret
