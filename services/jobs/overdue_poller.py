"""Tasks that have waited too long, asked of their owners: so no state of the queue stops a job.

The queue tells workers of tasks at once, and that is all it is for. What it lost, hides, or cannot tell because it is
down, the owners know: every worker asks them a few times in the time that a task may wait, between two tasks too.
"""

import random
import time
from collections.abc import Mapping, Sequence

import grpc.aio

from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc, messages_pb2
from services.jobs import metrics
from services.runtime.telemetry import logging

_TIMES = 3
"""How often owners are asked in the time that a task may wait."""
_AWAY_SECONDS = 2.0
"""How often at least while the queue is away."""
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
        """Until the owners are to be asked, which is soon while the queue is away; 0 or less: now."""
        pause = min(self._pause, _AWAY_SECONDS) if queue_unavailable else self._pause
        return self._asked_at + pause - time.monotonic()

    async def ask(self, *, queue_unavailable: bool) -> list[messages_pb2.TaskMessage]:
        """Names overdue tasks, or all that wait; none where an owner is away or of a version that does not tell."""
        self._rest(time.monotonic())
        request = leases_pb2.ListOverdueTasksRequest(kinds=self._kinds, queue_unavailable=queue_unavailable)
        found = []
        for owner, stub in self._owners.items():
            try:
                answer = await stub.ListOverdueTasks(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                _log.debug("owner names no overdue tasks", owner=owner, error=error.details())
                continue
            found += [messages_pb2.TaskMessage(task_id=task_id, owner=owner) for task_id in answer.task_ids]
        # Workers that ask at the same time do not all want the same one.
        random.shuffle(found)
        return found

    def taken(self) -> None:
        """Record that one of them was to be had: there may be more, to be asked for at once."""
        metrics.overdue.inc()
        self._pause = 0.0

    def _rest(self, now: float) -> None:
        self._asked_at, self._pause = now, self._interval * random.uniform(0.7, 1.0)  # noqa: S311  no secret
