"""The worker: takes tasks from the queue, one at a time, and runs them in its task process."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence

import nats.errors
import protovalidate
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg

from polytok import errors
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc, messages_pb2
from services.jobs import lease_client, metrics
from services.jobs.overdue_poller import OverduePoller
from services.jobs.queue_consumer import QueueConsumer
from services.jobs.task_execution import LeasedTask
from services.jobs.task_process import TaskProcess, TaskProcessFailed
from services.runtime import messaging
from services.runtime.process import StopSignal
from services.runtime.settings import JobSettings, WorkerSettings
from services.runtime.telemetry import logging, tracing

_RESTART_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
_OWNER_AWAY_SECONDS = 2.0
_OWNER_UNKNOWN_SECONDS = 30.0
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 2.0
_SIGNS = 3
"""Heartbeats sent to the queue within the time after which it would redeliver the message."""

_log = logging.get(__name__)
_validator = protovalidate.Validator()


class Worker:
    """Serves one pool. `owners` has the LeaseService of every service that owns its tasks.

    `lazy` starts the child with the first task and stops it when idle, for expensive children that may not be needed.
    `pausable` tasks stop by themselves at a resume point once `TaskContext.pause_requested` is set.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        job_settings: JobSettings,
        client: Client,
        subjects: messaging.Subjects,
        pool: str,
        kinds: Sequence[str],
        owners: Mapping[str, "leases_pb2_grpc.LeaseServiceAsyncStub"],
        child_command: Sequence[str],
        *,
        lazy: bool = False,
        pausable: bool = False,
    ) -> None:
        self._settings = settings
        self._lazy = lazy
        self._pause_seconds = settings.pause_seconds if pausable else 0.0
        self._client = client
        self._subjects = subjects
        self._kinds = kinds
        self._owners = owners
        # After that another worker gets the task, one that may reach the owner.
        self._patience = min(job_settings.lease_ttl_seconds, _PATIENCE_SECONDS)
        self._sign_seconds = job_settings.dispatch_ack_seconds / _SIGNS
        self._consumer = QueueConsumer(client, subjects, pool, kinds, job_settings.dispatch_ack_seconds)
        self._child = TaskProcess(child_command, service=f"{pool}-child", memory_bytes=settings.memory_bytes)
        self._bound = job_settings.redispatch_seconds
        self._overdue = OverduePoller(owners, kinds, self._bound)
        self._coming: asyncio.Task[Msg | None] | None = None
        self._failed_starts = 0
        self._run: LeasedTask | None = None

    @property
    def child_pid(self) -> int:
        """The process id of the child; 0 before the first start."""
        return self._child.pid

    async def ready(self) -> bool:
        """Return whether a task would be accepted now."""
        return self._client.is_connected and (self._lazy or self._child.warm) and self._consumer.confirmed

    async def missing(self) -> str:
        """Return what keeps a task from running now, or an empty string.

        The queue announces tasks, but one that has waited long is found with its owner.
        """
        return "" if self._lazy or self._child.warm else "task process: it is not running yet."

    def queue_trouble(self) -> str:
        """Return the problem with the work queue, or an empty string."""
        if not self._client.is_connected:
            return "NATS cannot be reached. This worker polls the owners for tasks that have waited long."
        if not self._consumer.confirmed:
            return "The work queue is missing or does not answer. This worker polls the owners for waiting tasks."
        return ""

    async def run(self, stop: StopSignal) -> None:
        """Work until asked to stop; then release the task and stop the child."""
        stops = await self._client.subscribe(self._subjects.stop("*"), cb=self._hear_stop)
        await self._consumer.open()
        ending = asyncio.create_task(self._end_pull(stop), name="end-pull")
        try:
            while not stop.is_set():
                if not self._lazy and not await self._have_child(stop):
                    continue
                message = await self._next(stop)
                if message is None:
                    continue
                async with self._holding(message):
                    # An idle child may have died in the meantime, which is not the task's fault.
                    if await self._have_child(stop):
                        await self._take(message, stop)
                    else:
                        await message.nak()
        finally:
            ending.cancel()
            await self._child.stop()
            # Without a queue there is nothing to release.
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._give_up_coming()
                await self._consumer.close()
                await stops.unsubscribe()

    async def _next(self, stop: StopSignal) -> Msg | None:
        """Wait for a message, running overdue tasks and stopping an idle lazy child meanwhile. None on stop."""
        began = asyncio.get_running_loop().time()
        while not stop.is_set():
            # Kept across calls: an abandoned pull may already have received a message. It begins before owners are
            # polled, so that the queue is known to exist while an overdue task runs.
            self._coming = self._coming or asyncio.create_task(self._consumer.next(), name="next")
            due_in = self._overdue.seconds(queue_unavailable=bool(self.queue_trouble()))
            if due_in <= 0:
                idle_for = asyncio.get_running_loop().time() - began
                if await self._do_overdue(stop, idle_for):
                    began = asyncio.get_running_loop().time()
                continue
            ends_in = began + self._settings.idle_seconds - asyncio.get_running_loop().time()
            idles = self._lazy and self._child.alive
            # The queue may fail meanwhile, and then owners are polled sooner.
            pause = min(due_in, _LOOK_SECONDS, ends_in if idles else due_in)
            came, _ = await asyncio.wait({self._coming}, timeout=max(0.0, pause))
            if came:
                coming, self._coming = self._coming, None
                return coming.result()
            if idles and asyncio.get_running_loop().time() - began >= self._settings.idle_seconds:
                _log.info("idle task process stopped", pid=self._child.pid)
                await self._child.stop()
        return None

    async def _do_overdue(self, stop: StopSignal, idle_for: float) -> bool:
        """Run a task that has waited too long, if there is one; return whether it did."""
        away = bool(self.queue_trouble())
        found = await self._overdue.ask(queue_unavailable=away)
        if found and idle_for > self._bound and not away:
            # The queue works, a worker is idle and a task waits: the consumer does not deliver.
            await self._consumer.renew()
        if not found or not await self._have_child(stop):
            return False
        for task in found:
            with tracing.span("overdue task", None, task=task.task_id):
                if await self._do(task, None, stop):
                    self._overdue.taken()
                    return True
        return False

    async def _give_up_coming(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.wait({self._coming})
            message = None if self._coming.cancelled() else self._coming.result()
            if message is not None:
                await message.nak()

    async def _end_pull(self, stop: StopSignal) -> None:
        await stop.wait()
        self._consumer.end()

    async def _hear_stop(self, message: Msg) -> None:
        run = self._run
        if run is not None and message.subject == self._subjects.stop(run.lease.job_id):
            # The event decides nothing: ask the owner.
            run.recheck_lease()

    @contextlib.asynccontextmanager
    async def _holding(self, message: Msg) -> AsyncGenerator[None]:
        """Send heartbeats to the queue for a message, from its arrival to its end.

        A worker that dies before it has the lease leaves no trace in Postgres. Only the queue knows about it, and
        redelivers the message once heartbeats stop. That decides nothing: the owner leases a task to one worker at a
        time.
        """
        signing = asyncio.create_task(self._sign(message), name="sign")
        try:
            yield
        finally:
            signing.cancel()
            await asyncio.gather(signing, return_exceptions=True)

    async def _sign(self, message: Msg) -> None:
        while True:
            await asyncio.sleep(self._sign_seconds)
            with contextlib.suppress(nats.errors.Error, OSError):
                await message.in_progress()

    async def _have_child(self, stop: StopSignal) -> bool:
        """Ensure that the child is running; after failures, wait first."""
        if self._child.alive:
            return True
        pause = _RESTART_SECONDS[min(self._failed_starts, len(_RESTART_SECONDS) - 1)]
        if pause and await stop.wait(pause):
            return False
        starting = asyncio.create_task(self._child.start(), name="start-child")
        asked = asyncio.create_task(stop.event.wait(), name="stop")
        try:
            await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return False
            starting.result()
        except TaskProcessFailed as error:
            self._failed_starts += 1
            _log.error("task process does not start", error=str(error), failures=self._failed_starts)
            return False
        finally:
            asked.cancel()
            starting.cancel()
            await asyncio.gather(starting, asked, return_exceptions=True)
        self._failed_starts = 0
        _log.info("task process ready", pid=self._child.pid)
        return True

    async def _take(self, message: Msg, stop: StopSignal) -> None:
        try:
            task = self._read(message)
            if task is None:
                # No worker could use it. If it hides a task, the owner's reconciler redispatches that.
                metrics.garbage.inc()
                await message.term()
            elif task.owner not in self._owners:
                _log.error("no address for the owner of a task", owner=task.owner, task=task.task_id)
                await message.nak(delay=_OWNER_UNKNOWN_SECONDS)
            else:
                with tracing.span(f"task {task.kind}", tracing.extract(message.headers), task=task.task_id):
                    await self._do(task, message, stop)
        except (nats.errors.Error, OSError) as error:
            # What the queue missed it finds out: it redelivers the message, and the owner refuses the task.
            _log.warning("queue could not be notified", error=f"{type(error).__name__}: {error}")

    def _read(self, message: Msg) -> messages_pb2.TaskMessage | None:
        try:
            task = messages_pb2.TaskMessage.FromString(message.data)
        except DecodeError:
            _log.error("invalid message on the queue", subject=message.subject, size=len(message.data))
            return None
        violations = _validator.collect_violations(task)
        misplaced = message.subject != self._subjects.task(task.kind, task.task_id)
        if violations or misplaced:
            _log.error(
                "invalid message on the queue",
                subject=message.subject,
                violations=len(violations),
                misplaced=misplaced,
            )
            return None
        return task

    async def _do(self, task: messages_pb2.TaskMessage, message: Msg | None, stop: StopSignal) -> bool:
        """Run a task, announced by `message` if any. Return False if it was not available."""
        stub = self._owners[task.owner]
        give_up = asyncio.get_running_loop().time() + self._patience
        request = leases_pb2.AcquireLeaseRequest(task_id=task.task_id, worker=self._settings.name, request_id=_uuid())
        try:
            lease, sent_at = await lease_client.call_with_retry(
                stub.AcquireLease, request, until=lambda: 0.0 if stop.is_set() else give_up
            )
        except (errors.NotFound, errors.FailedPrecondition) as error:
            # Done, deleted, or leased by another worker: nothing is left to do.
            _log.info("task not taken", task=task.task_id, reason=error.reason)
            if message is not None:
                await message.ack()
            return False
        except errors.PolytokError as error:
            _log.warning("owner did not grant a lease", task=task.task_id, owner=task.owner, error=error.message)
            if message is not None:
                await message.nak(delay=_OWNER_AWAY_SECONDS)
            return False
        await self._work(
            LeasedTask(
                stub,
                lease,
                task.task_id,
                sent_at,
                self._child,
                self._client,
                self._subjects,
                self._pause_seconds,
            ),
            stop,
        )
        # The outcome is in Postgres by now, or will be once the lease expires.
        if message is not None:
            await message.ack()
        return True

    async def _work(self, run: LeasedTask, stop: StopSignal) -> None:
        started = time.monotonic()
        _log.info(
            "task taken", task=run.task_id, kind=run.lease.kind, epoch=run.lease.epoch, resource=run.lease.resource
        )
        self._run = run
        try:
            outcome = await run.run(stop)
        finally:
            self._run = None
        seconds = time.monotonic() - started
        metrics.attempts.labels(run.lease.kind, outcome).observe(seconds)
        _log.info("task ended", task=run.task_id, kind=run.lease.kind, outcome=outcome, seconds=round(seconds, 3))


def _uuid() -> str:
    return str(uuid.uuid4())
