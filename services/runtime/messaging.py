"""NATS: the connection, the subjects, the work queue and its consumers.

NATS only notifies: the reconciler dispatches again whatever is lost here.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import nats.errors
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import BadRequestError, NotFoundError

from services.runtime.settings import MessagingSettings
from services.runtime.telemetry import logging

_log = logging.get(__name__)

_DUPLICATE_WINDOW_SECONDS = 120
_STREAM_NAME_IN_USE = 10058
_MAX_CANCELS = 20


def check_cancelled() -> None:
    """Raise CancelledError if the running task was cancelled. For loops that call NATS.

    nats-py swallows the cancellation of a task that waits in it, or raises its own error instead: a loop that continues
    after errors would never end.
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
        """Return the subject of one task's messages."""
        return f"{self.namespace}.tasks.{kind}.{task_id}"

    def kind(self, kind: str) -> str:
        """Return the pattern for all tasks of one kind."""
        return f"{self.namespace}.tasks.{kind}.*"

    def canary(self, owner: str) -> str:
        """Return the subject of an owner's canary; no task kind has this name."""
        return f"{self.namespace}.tasks.canary.{owner}"

    def progress(self, task_id: object) -> str:
        """Return the subject of one task's progress; `*` matches every task."""
        return f"{self.namespace}.progress.{task_id}"

    def stop(self, job_id: object) -> str:
        """Return the subject that announces the stop of a job; `*` matches every job."""
        return f"{self.namespace}.stop.{job_id}"


async def connect(settings: MessagingSettings, name: str) -> Client:
    """Connect, waiting as long as it takes, and reconnect forever; log each change of state.

    Leaves no socket open if it is cancelled on the way, as nats-py by itself does.
    """
    state = _ConnectionLog()
    client = Client()
    connecting = asyncio.create_task(
        client.connect(
            settings.url,
            name=name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.5,  # type: ignore[arg-type]  # any number of seconds will do
            connect_timeout=5,
            ping_interval=20,
            max_outstanding_pings=2,
            error_cb=state.failed,
            disconnected_cb=state.disconnected,
            reconnected_cb=state.reconnected,
        ),
        name="connect to nats",
    )
    try:
        await asyncio.shield(connecting)
    except BaseException:
        # While it waits for the server's greeting, nats-py swallows a cancellation and tries again.
        for _ in range(_MAX_CANCELS):
            if connecting.done():
                break
            connecting.cancel()
            await asyncio.wait({connecting}, timeout=0.1)
        await close(client)
        raise
    return client


async def close(client: Client) -> None:
    """Close a connection, even if its server is unavailable."""
    # nats-py asserts that a client was connected once.
    with contextlib.suppress(nats.errors.Error, OSError, AssertionError):
        await client.close()


class _ConnectionLog:
    """Logs a problem once, not at every retry."""

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
    """Create the work queue, or update its configuration."""
    stream = api.StreamConfig(
        name=subjects.stream,
        subjects=subjects.tasks,
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy.OLD,
        # A task has one message at a time: another dispatch replaces the previous one.
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
    """Delete and recreate the work queue with its consumers. Owners dispatch its messages again."""
    with contextlib.suppress(NotFoundError):
        await client.jsm().delete_stream(subjects.stream)
    await ensure_stream(client, subjects)


def consumer_name(pool: str) -> str:
    """Return the name of the durable consumer that all workers of a pool share."""
    return f"worker-{pool}"


async def ensure_consumer(
    client: Client, subjects: Subjects, pool: str, kinds: Sequence[str], *, ack_seconds: float
) -> None:
    """Create the durable pull consumer of a pool, or update its configuration.

    A message whose worker sends no heartbeat (+WPI) for `ack_seconds` is redelivered to another.
    """
    consumer = api.ConsumerConfig(
        durable_name=consumer_name(pool),
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ack_seconds,
        # Postgres counts the attempts.
        max_deliver=-1,
        max_ack_pending=10_000,
        filter_subjects=[subjects.kind(kind) for kind in kinds],
    )
    await client.jsm().add_consumer(subjects.stream, consumer)


async def delete_consumer(client: Client, subjects: Subjects, pool: str) -> None:
    """Delete the consumer of a pool; unacknowledged messages are delivered to the next one."""
    with contextlib.suppress(NotFoundError):
        await client.jsm().delete_consumer(subjects.stream, consumer_name(pool))
