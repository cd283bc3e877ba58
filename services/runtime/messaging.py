"""NATS: the connection, the names of subjects, the work queue and its consumers.

NATS only notifies (DESIGN §2): whatever is lost here is dispatched again by the reconciler.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import BadRequestError, NotFoundError

from services.runtime.settings import MessagingSettings
from services.runtime.telemetry import logging

_log = logging.get(__name__)

_DUPLICATE_WINDOW_SECONDS = 120
_STREAM_NAME_IN_USE = 10058


def check_cancelled() -> None:
    """Raise CancelledError if the running task was cancelled, for loops that call NATS.

    nats-py drops the cancellation of a task that waits in it, or raises an error of its own in its place: a loop that
    goes on after errors would never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Subjects:
    """The subjects of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.stream = f"{namespace.upper().replace('-', '_')}_TASKS"
        self.tasks = [f"{namespace}.tasks.>"]

    def task(self, kind: str, task_id: object) -> str:
        """Return the subject on which one task is dispatched."""
        return f"{self.namespace}.tasks.{kind}.{task_id}"

    def kind(self, kind: str) -> str:
        """Match every task of one kind."""
        return f"{self.namespace}.tasks.{kind}.*"

    def canary(self, owner: str) -> str:
        """Return where an owner of tasks tries whether the queue works; no kind of task is called so."""
        return f"{self.namespace}.tasks.canary.{owner}"

    def progress(self, task_id: object) -> str:
        """Return where the progress of one task is told; `*` matches every task."""
        return f"{self.namespace}.progress.{task_id}"

    def stop(self, job_id: object) -> str:
        """Return where workers hear that a job was stopped; `*` matches every job."""
        return f"{self.namespace}.stop.{job_id}"


async def connect(settings: MessagingSettings, name: str) -> Client:
    """Connect, for as long as it takes, and reconnects for ever; each change of state is logged."""
    state = _ConnectionLog()
    return await nats.connect(
        settings.url,
        name=name,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.5,
        connect_timeout=5,
        ping_interval=20,
        max_outstanding_pings=2,
        error_cb=state.failed,
        disconnected_cb=state.disconnected,
        reconnected_cb=state.reconnected,
    )


async def close(client: Client) -> None:
    """Close a connection, or what is left of one to a server that is away."""
    with contextlib.suppress(nats.errors.Error, OSError):
        await client.close()


class _ConnectionLog:
    """Logs a trouble once, not with every try."""

    def __init__(self) -> None:
        self._last = ""

    async def failed(self, error: Exception) -> None:
        what = f"{type(error).__name__}: {error}"
        if what != self._last:
            _log.warning("nats connection failed", error=what)
        self._last = what

    async def disconnected(self) -> None:
        _log.warning("nats disconnected")

    async def reconnected(self) -> None:
        self._last = ""
        _log.info("nats reconnected")


async def ensure_stream(client: Client, subjects: Subjects) -> None:
    """Make the work queue, or bring it to this configuration."""
    stream = api.StreamConfig(
        name=subjects.stream,
        subjects=subjects.tasks,
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy.OLD,
        # A task has one message at a time: a further dispatch replaces the one before.
        max_msgs_per_subject=1,
        duplicate_window=_DUPLICATE_WINDOW_SECONDS,
    )
    jetstream = client.jsm()
    try:
        await jetstream.add_stream(stream)
    except BadRequestError as error:
        if error.err_code != _STREAM_NAME_IN_USE:
            raise
        await jetstream.update_stream(stream)


async def recreate_stream(client: Client, subjects: Subjects) -> None:
    """Delete the work queue with its consumers and make it anew. Owners dispatch again what was on it."""
    with contextlib.suppress(NotFoundError):
        await client.jsm().delete_stream(subjects.stream)
    await ensure_stream(client, subjects)


def consumer_name(pool: str) -> str:
    """Return the durable consumer that all workers of a pool share."""
    return f"worker-{pool}"


async def ensure_consumer(
    client: Client, subjects: Subjects, pool: str, kinds: Sequence[str], *, ack_seconds: float
) -> None:
    """Make the durable pull consumer of a pool, or bring it to this configuration.

    A message whose worker gives no sign of life (+WPI) for `ack_seconds` is given to another.
    """
    consumer = api.ConsumerConfig(
        durable_name=consumer_name(pool),
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ack_seconds,
        # Attempts are counted in Postgres, never here.
        max_deliver=-1,
        max_ack_pending=10_000,
        filter_subjects=[subjects.kind(kind) for kind in kinds],
    )
    await client.jsm().add_consumer(subjects.stream, consumer)


async def delete_consumer(client: Client, subjects: Subjects, pool: str) -> None:
    """Delete the consumer of a pool; what was delivered and not acknowledged is delivered to the next one."""
    with contextlib.suppress(NotFoundError):
        await client.jsm().delete_consumer(subjects.stream, consumer_name(pool))


async def stream_exists(client: Client, subjects: Subjects) -> bool:
    """Return whether the work queue is there."""
    try:
        await client.jsm().stream_info(subjects.stream)
    except NotFoundError:
        return False
    return True
