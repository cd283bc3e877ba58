"""The task process: a separate process for heavy work, so that the worker's event loop can keep its leases.

A worker starts `python -m services.<service>.worker.child`, whose module calls `serve`. Tasks arrive on standard input,
events go to the file descriptor in POLYTOK_CHILD_FD; standard output and error are free for logs. The process ends with
its parent, however that ends.
"""

import ctypes
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok import disk_space, errors
from polytok.jobs.v1 import leases_pb2, messages_pb2
from services.jobs import failures, frames
from services.runtime.settings import TelemetrySettings
from services.runtime.telemetry import logging
from services.runtime.throttle import Throttle

EVENTS_FD = "POLYTOK_CHILD_FD"
"""Environment variable with the file descriptor for events."""
PARENT = "POLYTOK_CHILD_PARENT"
"""The process id of the worker."""
SERVICE = "POLYTOK_CHILD_SERVICE"
"""The name of the process in its logs."""
MEMORY_BYTES = "POLYTOK_CHILD_MEMORY_BYTES"
"""The memory limit of the process; unset or 0 means none."""

_PR_SET_PDEATHSIG = 1
_REPORT_SECONDS = 0.1

_log = logging.get(__name__)


class TaskPaused(Exception):
    """Raised by a task function that stopped on request, after it reported its resume point."""


@dataclass
class TaskContext:
    """Execution context of a task: identity, resume point, progress reporting."""

    task_id: str
    epoch: int
    resume_point: bytes
    send: Callable[[messages_pb2.TaskEvent], None]
    pause_requested: threading.Event = field(default_factory=threading.Event)
    """Set when the task should stop at its next resume point, by raising `TaskPaused`."""
    saved_resume_point: bytes = b""
    """The resume point that the owner has: another attempt would continue there if this one ended now."""
    _throttle: Throttle = field(default_factory=lambda: Throttle(_REPORT_SECONDS), init=False)

    def __post_init__(self) -> None:
        self.saved_resume_point = self.resume_point

    @property
    def tag(self) -> str:
        """Part of every file name that this attempt writes, unique to the attempt."""
        return f"{self.task_id.replace('-', '')[:12]}-e{self.epoch}"

    def report(self, done: int, total: int, resume_point: bytes = b"") -> None:
        """Report progress. Cheap enough for an inner loop, since most calls return immediately."""
        if not self._throttle.ready(force=bool(resume_point) or done == total):
            return
        progress = leases_pb2.TaskProgress(done=done, total=total)
        self.send(messages_pb2.TaskEvent(progress=progress, resume_point=resume_point))

    def record(self, found: Message) -> None:
        """Have the owner store a report: at the latest with the next resume point, only while the lease is valid."""
        event = messages_pb2.TaskEvent()
        event.report.Pack(found)
        self.send(event)


TaskFunction = Callable[[any_pb2.Any, TaskContext], Message]
"""Runs one task: takes the payload, returns the result message, raises a PolytokError for messages to users."""


def serve(handlers: Mapping[str, TaskFunction], warm: Callable[[], None]) -> None:
    """Run tasks, one after another, until the parent closes standard input or dies.

    `handlers` has a function per task kind; `warm` imports and loads what the first task would wait for.
    """
    logging.configure(TelemetrySettings(), os.environ.get(SERVICE, "child"))
    exit_with_parent(int(os.environ[PARENT]))
    _limit_memory(int(os.environ.get(MEMORY_BYTES) or 0))
    # Ctrl-C reaches every process on the terminal; the parent decides what happens to the task.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = int(os.environ[EVENTS_FD])
    # Processes that a task starts must not keep the pipe open: its end shows the parent that this process is gone.
    os.set_inheritable(descriptor, False)
    events = os.fdopen(descriptor, "wb")
    writing = threading.Lock()

    def send(event: messages_pb2.TaskEvent) -> None:
        with writing:
            events.write(frames.encode(event))
            events.flush()

    tasks: queue.SimpleQueue[tuple[messages_pb2.TaskCommand, TaskContext]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, tasks, send), name="tasks", daemon=True).start()
    warm()
    send(messages_pb2.TaskEvent(ready=True))
    while True:
        send(_run(handlers, *tasks.get()))


def exit_with_parent(parent: int) -> None:
    """Have the kernel end this process with its parent (Linux only; elsewhere this does nothing)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        # The parent died before the kernel watched it.
        os._exit(1)


def _limit_memory(limit: int) -> None:
    if limit:
        # RLIMIT_DATA counts allocations; RLIMIT_AS would also count mapped files, which use no memory.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _receive(
    stream: BinaryIO,
    tasks: "queue.SimpleQueue[tuple[messages_pb2.TaskCommand, TaskContext]]",
    send: Callable[[messages_pb2.TaskEvent], None],
) -> None:
    # In a separate thread, so that the end of the parent and its requests are noticed while a task runs.
    context = None
    try:
        while (task := frames.read(stream, messages_pb2.TaskCommand)) is not None:
            if not task.pause_requested and not task.resume_point_saved:
                context = TaskContext(task.task_id, task.epoch, task.resume_point, send)
                tasks.put((task, context))
            elif context is None or (task.task_id, task.epoch) != (context.task_id, context.epoch):
                continue  # for a task that has ended
            elif task.pause_requested:
                context.pause_requested.set()
            else:
                context.saved_resume_point = task.resume_point
    except (frames.BrokenFrame, OSError) as error:
        _log.error("task process stops: invalid message from its parent", error=str(error))
    os._exit(0)


def _run(
    handlers: Mapping[str, TaskFunction],
    task: messages_pb2.TaskCommand,
    context: TaskContext,
) -> messages_pb2.TaskEvent:
    try:
        handler = handlers.get(task.kind)
        if handler is None:
            raise errors.Internal(f"Unknown task kind {task.kind!r}: upgrade this worker.", retryable=False)
        result = any_pb2.Any()
        result.Pack(handler(any_pb2.Any.FromString(task.payload), context))
        return messages_pb2.TaskEvent(result=result.SerializeToString())
    except TaskPaused:
        return messages_pb2.TaskEvent(paused=True)
    except Exception as error:
        return messages_pb2.TaskEvent(error=describe_error(error, task))


def _place(error: BaseException) -> str | None:
    """Return which disk is full: that of the file in the error, else of the storage, if it is a folder."""
    named = getattr(error, "filename", None) or os.environ.get("POLYTOK_STORAGE_ROOT", "")
    return str(named) if str(named).startswith("/") else None


def describe_error(error: Exception, task: messages_pb2.TaskCommand) -> leases_pb2.TaskError:
    """Return the message to users about an exception in a task."""
    if not isinstance(error, errors.PolytokError):
        error = _as_polytok_error(error, task)
    return failures.to_task_error(error)


def _as_polytok_error(error: Exception, task: messages_pb2.TaskCommand) -> errors.PolytokError:
    """Convert an exception that is not one of ours."""
    if isinstance(error, MemoryError):
        return errors.ResourceExhausted(
            "The task needs more memory than the worker's limit. Raise the limit, or use smaller shards.",
            reason="WORKER_LOST",
            retryable=True,
        )
    if disk_space.is_full(error):
        return disk_space.full("the task was writing", _place(error))
    _log.exception("task failed unexpectedly", task=task.task_id, kind=task.kind, exc_info=error)
    return errors.Internal(
        f"The task failed unexpectedly ({type(error).__name__}). See the worker's log for details.", retryable=True
    )
