"""Execution of one leased task in the task process, and the report of its outcome to the owner."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import nats.errors
from google.protobuf import any_pb2
from nats.aio.client import Client

from polytok import errors
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc, messages_pb2
from services.jobs import failures, lease_client
from services.jobs.task_process import TaskProcess
from services.runtime import messaging
from services.runtime.process import StopSignal
from services.runtime.telemetry import logging
from services.runtime.throttle import Throttle

_PROGRESS_SECONDS = 0.2
_REPORT_SECONDS = 0.4
"""Shortest interval between two reports to the owner."""
_RELEASE_SECONDS = 5.0

SUCCEEDED = "succeeded"
FAILED = "failed"
RELEASED = "released"
FENCED = "fenced"
"""The owner leased the task to another worker, or the task has ended."""
UNREACHABLE = "unreachable"
"""The owner could not be reached before the lease expired."""

_PAUSED = messages_pb2.TaskEvent(paused=True)

_log = logging.get(__name__)


@dataclass
class LeasedTask:
    """Runs one task under one lease. `sent_at` is when the request for the lease left, on the event loop's clock."""

    stub: "leases_pb2_grpc.LeaseServiceAsyncStub"
    lease: leases_pb2.AcquireLeaseResponse
    task_id: str
    sent_at: float
    child: TaskProcess
    client: Client
    subjects: messaging.Subjects
    pause_seconds: float = 0.0
    """How long the task may take to stop by itself after a pause request; 0 means it cannot, and is killed."""
    _progress: leases_pb2.TaskProgress | None = None
    _resume_point: bytes = b""
    _saved_resume_point: bytes = b""
    _reports: list[any_pb2.Any] = field(default_factory=list)
    _throttle: Throttle = field(default_factory=lambda: Throttle(_PROGRESS_SECONDS))
    _pause_sent: bool = False
    _recheck: bool = False
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._ttl = self.lease.ttl.ToTimedelta().total_seconds()
        self._deadline = self._ends(self.sent_at)
        self._extended_at = self.sent_at

    async def run(self, stop: StopSignal) -> str:
        """Work until the task is done, the lease is lost or the worker stops; return the outcome."""
        work = asyncio.create_task(self._work(), name="work")
        beat = asyncio.create_task(self._heartbeat(), name="beat")
        asked = asyncio.create_task(stop.event.wait(), name="stop")
        try:
            await asyncio.wait({work, beat, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not beat.done() and self.pause_seconds:
                await self._request_pause()
                await asyncio.wait({work, beat}, timeout=self.pause_seconds, return_when=asyncio.FIRST_COMPLETED)
            done = work.done()
            if not done:
                await _cancel(work)
                await self.child.kill()
            if not done and beat.done():
                return beat.result()
            # The final report to the owner must not race with an extension.
            await _cancel(beat)
            return await self._report(work.result() if done else _PAUSED)
        finally:
            await _cancel(work, beat, asked)

    def recheck_lease(self) -> None:
        """Check the lease with the owner now: an event says that the job has ended or should pause."""
        self._recheck = True
        self._woken.set()

    def _ends(self, sent_at: float) -> float:
        """When the child must have stopped: a little before the lease expires."""
        return sent_at + self._ttl * 0.85

    async def _work(self) -> messages_pb2.TaskEvent:
        """Have the child run the task, and return its last event."""
        task = messages_pb2.TaskCommand(
            task_id=self.task_id,
            epoch=self.lease.epoch,
            kind=self.lease.kind,
            payload=self.lease.payload.SerializeToString(),
            resume_point=self.lease.resume_point,
        )
        await self.child.send(task)
        while True:
            event = await self.child.receive()
            if event is None:
                return messages_pb2.TaskEvent(error=self._process_lost())
            match event.WhichOneof("event"):
                case "progress":
                    self._progress = event.progress
                    self._resume_point = event.resume_point or self._resume_point
                    await self._publish_progress()
                case "report":
                    self._reports.append(event.report)
                    self._woken.set()
                case "result" | "error" | "paused":
                    return event

    def _process_lost(self) -> leases_pb2.TaskError:
        hint = " The most common cause is that memory ran out." if "SIGKILL" in self.child.end() else ""
        message = f"The task process {self.child.end()}.{hint}"
        _log.error("task process died", task=self.task_id, end=self.child.end())
        return failures.to_task_error(errors.Unavailable(message, reason="WORKER_LOST", retryable=True))

    async def _publish_progress(self) -> None:
        """Publish progress a few times a second; it may be lost."""
        if not self.client.is_connected or not self._throttle.ready():
            return
        event = messages_pb2.ProgressEvent(
            task_id=self.task_id, job_id=self.lease.job_id, epoch=self.lease.epoch, progress=self._progress
        )
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.client.publish(self.subjects.progress(self.task_id), event.SerializeToString())

    async def _heartbeat(self) -> str:
        """Extend the lease every third of its TTL, sooner with reports, until that fails; return why it failed."""
        while True:
            await self._until_due()
            lost = await self._extend()
            if lost:
                return lost

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        resting_until = loop.time() + self._ttl / 3
        while not self._recheck:
            due = min(resting_until, self._extended_at + _REPORT_SECONDS) if self._reports else resting_until
            if due <= loop.time():
                return
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._woken.wait()

    async def _extend(self) -> str:
        """Extend the lease and pass on what the task reported since; return why that failed, or None."""
        self._recheck = False
        # One snapshot: a resume point never reaches the owner without the reports before it.
        reports = self._reports[:]
        request = leases_pb2.ExtendLeaseRequest(
            task_id=self.task_id,
            epoch=self.lease.epoch,
            progress=self._progress,
            resume_point=self._resume_point,
            reports=reports,
        )
        try:
            async with asyncio.timeout_at(self._deadline):
                extended, sent_at = await lease_client.call_with_retry(
                    self.stub.ExtendLease, request, until=lambda: self._deadline, try_seconds=self._ttl / 3
                )
        except (TimeoutError, errors.PolytokError) as error:
            _log.warning("lease lost", task=self.task_id, epoch=self.lease.epoch, error=str(error))
            return FENCED if _fenced(error) else UNREACHABLE
        del self._reports[: len(reports)]
        self._ttl = extended.ttl.ToTimedelta().total_seconds()
        self._deadline = self._ends(sent_at)
        self._extended_at = asyncio.get_running_loop().time()
        if request.resume_point != self._saved_resume_point:
            self._saved_resume_point = request.resume_point
            await self.child.send(
                messages_pb2.TaskCommand(
                    task_id=self.task_id,
                    epoch=self.lease.epoch,
                    resume_point=self._saved_resume_point,
                    resume_point_saved=True,
                )
            )
        if extended.pause_requested:
            await self._request_pause()
        return ""

    async def _request_pause(self) -> None:
        """Ask the child, once, to stop at a resume point."""
        if not self._pause_sent:
            self._pause_sent = True
            task = messages_pb2.TaskCommand(task_id=self.task_id, epoch=self.lease.epoch, pause_requested=True)
            await self.child.send(task)

    async def _report(self, event: messages_pb2.TaskEvent) -> str:
        """Report to the owner how the task ended."""
        lost = await self._extend() if self._reports else ""
        if lost:
            return lost
        match event.WhichOneof("event"):
            case "error":
                return await self._fail(event.error)
            case "paused":
                return await self._release()
        return await self._complete(event)

    async def _complete(self, event: messages_pb2.TaskEvent) -> str:
        request = leases_pb2.CompleteTaskRequest(
            task_id=self.task_id, epoch=self.lease.epoch, result=any_pb2.Any.FromString(event.result)
        )
        # Publishing may take as long as a lease; the owner enforces that limit.
        seconds = max(self._deadline - asyncio.get_running_loop().time(), 0) + 2 * self._ttl
        try:
            await lease_client.call_with_retry(
                self.stub.CompleteTask, request, until=lambda: self._deadline, try_seconds=seconds
            )
        except errors.PolytokError as error:
            if lease_client.is_transient(error):
                _log.warning("owner unavailable; the result is lost", task=self.task_id, error=str(error))
                return UNREACHABLE
            if _fenced(error):
                _log.warning("result arrived too late", task=self.task_id, epoch=self.lease.epoch)
                return FENCED
            return await self._fail(failures.to_task_error(error))
        return SUCCEEDED

    async def _fail(self, error: leases_pb2.TaskError) -> str:
        if error.reason == "WORKER_LOST":
            # A child that ran into its limits does not get another task.
            await self.child.kill()
        request = leases_pb2.FailTaskRequest(task_id=self.task_id, epoch=self.lease.epoch, error=error)
        try:
            answer, _ = await lease_client.call_with_retry(self.stub.FailTask, request, until=lambda: self._deadline)
        except errors.PolytokError as refusal:
            return FENCED if _fenced(refusal) else UNREACHABLE
        _log.warning(
            "task failed", task=self.task_id, reason=error.reason, error=error.message, retry=answer.will_retry
        )
        return FAILED

    async def _release(self) -> str:
        request = leases_pb2.ReleaseLeaseRequest(
            task_id=self.task_id, epoch=self.lease.epoch, resume_point=self._resume_point
        )
        until = min(self._deadline, asyncio.get_running_loop().time() + _RELEASE_SECONDS)
        try:
            await lease_client.call_with_retry(
                self.stub.ReleaseLease, request, until=lambda: until, try_seconds=_RELEASE_SECONDS
            )
        except errors.PolytokError as error:
            return FENCED if _fenced(error) else UNREACHABLE
        return RELEASED


def _fenced(error: Exception) -> bool:
    return isinstance(error, errors.Aborted) and error.reason == "LEASE_LOST"


async def _cancel(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
