"""The child side: a process of its own for the heavy work, so that the worker's event loop keeps its leases.

A worker starts `python -m services.<service>.child`, whose module calls `serve`. Tasks come on standard input, events
go to the file descriptor in POLYTOK_CHILD_FD; standard output and error are free for logs. The process ends with its
parent, however that ends.
"""

import ctypes
import os
import queue
import resource
import signal
import sys
import threading
import time
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

EVENTS_FD = "POLYTOK_CHILD_FD"
"""Names the file descriptor that events are written to."""
PARENT = "POLYTOK_CHILD_PARENT"
"""The process id of the worker."""
SERVICE = "POLYTOK_CHILD_SERVICE"
"""What the child calls itself in its logs."""
MEMORY_BYTES = "POLYTOK_CHILD_MEMORY_BYTES"
"""How much the process may allocate; unset or 0 sets no limit."""

_PR_SET_PDEATHSIG = 1
_REPORT_SECONDS = 0.1

_log = logging.get(__name__)


class TaskPaused(Exception):
    """Raised by a task function that stopped because it was asked to, after it told its resume point."""


@dataclass
class TaskContext:
    """What a task function is told besides its payload, and how it tells how far it is."""

    task_id: str
    epoch: int
    resume_point: bytes
    send: Callable[[messages_pb2.TaskEvent], None]
    pause_requested: threading.Event = field(default_factory=threading.Event)
    """Set once the task is to stop where another attempt can go on: it then raises `TaskPaused`."""
    saved_resume_point: bytes = b""
    """The resume point that the owner has: where another attempt would go on, if this one ended now."""
    _reported_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.saved_resume_point = self.resume_point

    @property
    def tag(self) -> str:
        """Part of every file name that this attempt writes: no other attempt ever has the same."""
        return f"{self.task_id.replace('-', '')[:12]}-e{self.epoch}"

    def report(self, done: int, total: int, resume_point: bytes = b"") -> None:
        """Return how far the task is; cheap enough for an inner loop, as most calls return at once."""
        now = time.monotonic()
        if now - self._reported_at < _REPORT_SECONDS and not resume_point and done != total:
            return
        self._reported_at = now
        progress = leases_pb2.TaskProgress(done=done, total=total)
        self.send(messages_pb2.TaskEvent(progress=progress, resume_point=resume_point))

    def record(self, found: Message) -> None:
        """Have the owner keep a report: not later than the next resume point, and only while the lease is valid."""
        event = messages_pb2.TaskEvent()
        event.report.Pack(found)
        self.send(event)


TaskFunction = Callable[[any_pb2.Any, TaskContext], Message]
"""Does one task: takes the payload, gives the result message, raises a PolytokError for what a user shall read."""


def serve(handlers: Mapping[str, TaskFunction], warm: Callable[[], None]) -> None:
    """Run tasks, one after another, until the parent closes standard input or dies.

    `handlers` has a function for each task kind; `warm` imports and loads what the first task would wait for.
    """
    logging.configure(TelemetrySettings(), os.environ.get(SERVICE, "child"))
    exit_with_parent(int(os.environ[PARENT]))
    _limit_memory(int(os.environ.get(MEMORY_BYTES) or 0))
    # Ctrl-C reaches the whole terminal; the parent decides what becomes of the task.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = int(os.environ[EVENTS_FD])
    # What a task starts must not hold the pipe open: its end tells the parent that this process is gone.
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
    """Have the kernel end this process with its parent, however that ends (Linux; elsewhere it does nothing)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        # The parent died before the kernel was asked to watch it.
        os._exit(1)


def _limit_memory(limit: int) -> None:
    if limit:
        # RLIMIT_DATA counts what is allocated; RLIMIT_AS would count mapped files too, which cost no memory.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _receive(
    stream: BinaryIO,
    tasks: "queue.SimpleQueue[tuple[messages_pb2.TaskCommand, TaskContext]]",
    send: Callable[[messages_pb2.TaskEvent], None],
) -> None:
    # In a thread of its own, so that the end of the parent, and its wish, are seen while a task runs.
    context = None
    try:
        while (task := frames.read(stream, messages_pb2.TaskCommand)) is not None:
            if not task.pause_requested and not task.resume_point_saved:
                context = TaskContext(task.task_id, task.epoch, task.resume_point, send)
                tasks.put((task, context))
            elif context is None or (task.task_id, task.epoch) != (context.task_id, context.epoch):
                continue  # about a task that has ended
            elif task.pause_requested:
                context.pause_requested.set()
            else:
                context.saved_resume_point = task.resume_point
    except (frames.BrokenFrame, OSError) as error:
        _log.error("child stops: its parent's messages cannot be read", error=str(error))
    os._exit(0)


def _run(
    handlers: Mapping[str, TaskFunction],
    task: messages_pb2.TaskCommand,
    context: TaskContext,
) -> messages_pb2.TaskEvent:
    try:
        handler = handlers.get(task.kind)
        if handler is None:
            raise errors.Internal(f"This worker cannot do tasks of kind {task.kind!r}.", retryable=False)
        result = any_pb2.Any()
        result.Pack(handler(any_pb2.Any.FromString(task.payload), context))
        return messages_pb2.TaskEvent(result=result.SerializeToString())
    except TaskPaused:
        return messages_pb2.TaskEvent(paused=True)
    except Exception as error:
        return messages_pb2.TaskEvent(error=describe_error(error, task))


def _place(error: BaseException) -> str | None:
    """Return where there is no room: beside the file that the error names, else in the storage, if that is a folder."""
    named = getattr(error, "filename", None) or os.environ.get("POLYTOK_STORAGE_ROOT", "")
    return str(named) if str(named).startswith("/") else None


def describe_error(error: Exception, task: messages_pb2.TaskCommand) -> leases_pb2.TaskError:
    """Return what a user reads about an exception out of a task."""
    if not isinstance(error, errors.PolytokError):
        error = _as_polytok_error(error, task)
    return failures.to_task_error(error)


def _as_polytok_error(error: Exception, task: messages_pb2.TaskCommand) -> errors.PolytokError:
    """Return an exception that is not one of ours, as one."""
    if isinstance(error, MemoryError):
        return errors.ResourceExhausted(
            "The task needs more memory than the worker may use; give the worker more, or make shards smaller.",
            reason="WORKER_LOST",
            retryable=True,
        )
    if disk_space.is_full(error):
        return disk_space.full("the task was writing", _place(error))
    _log.exception("task failed unexpectedly", task=task.task_id, kind=task.kind, exc_info=error)
    return errors.Internal(
        f"The task failed unexpectedly ({type(error).__name__}); the worker's log has the details.", retryable=True
    )
