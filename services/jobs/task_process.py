"""The worker's side of a task process: start it, exchange messages, stop it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

from polytok.jobs.v1 import messages_pb2
from services.jobs import frames, metrics, task_process_main
from services.runtime.telemetry import logging

_READY_SECONDS = 120.0
_LEAVE_SECONDS = 5.0

_log = logging.get(__name__)


class TaskProcessFailed(Exception):
    """Raised when a task process does not start."""


class TaskProcess:
    """A task process, which runs one task after another."""

    def __init__(self, command: Sequence[str], *, service: str, memory_bytes: int = 0) -> None:
        self._command = command
        self._environment = {
            task_process_main.SERVICE: service,
            task_process_main.PARENT: str(os.getpid()),
            task_process_main.MEMORY_BYTES: str(memory_bytes),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._warmed = False
        self._gone: asyncio.Task[None] | None = None
        self._events: asyncio.StreamReader | None = None
        self._transport: asyncio.ReadTransport | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 without a process."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.returncode is None

    @property
    def warm(self) -> bool:
        """Whether the process is running and ready."""
        return self.alive and self._warmed

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        # By exec, never by fork alone: threads and gRPC do not survive a fork. In its own process group, so that
        # whatever
        # the task starts can be killed with it.
        self._warmed = False
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(writing,),
                process_group=0,
                env={**os.environ, **self._environment, task_process_main.EVENTS_FD: str(writing)},
            )
        except OSError as error:
            os.close(reading)
            raise TaskProcessFailed(f"{self._command[0]} cannot be started: {error.strerror}.") from error
        finally:
            os.close(writing)
        self._gone = asyncio.create_task(self._reap(self._process), name="child")
        metrics.task_processes.inc()
        events = self._events = asyncio.StreamReader()
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(events), os.fdopen(reading, "rb", buffering=0)
        )
        await self._until_ready()

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                event = await self.receive()
        except TimeoutError:
            await self.kill()
            raise TaskProcessFailed(f"The task process was not ready within {_READY_SECONDS:.0f} seconds.") from None
        except asyncio.CancelledError:
            await self.kill()
            raise
        if event is None or not event.ready:
            await self.kill()
            raise TaskProcessFailed(f"The task process did not start: it {self.end()}.")
        self._warmed = True

    async def send(self, task: messages_pb2.TaskCommand) -> None:
        """Send the child a task."""
        assert self._process is not None
        assert self._process.stdin is not None
        # `receive` notices a child that has just died.
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(frames.encode(task))
            await self._process.stdin.drain()

    async def receive(self) -> messages_pb2.TaskEvent | None:
        """Wait for the child's next event; return None once it has ended."""
        assert self._events is not None
        assert self._process is not None
        try:
            event = await frames.receive(self._events, messages_pb2.TaskEvent)
        except frames.BrokenFrame as error:
            _log.error("invalid message from task process; killing it", error=str(error))
            event = None
        if event is None:
            # Its end of the pipe is closed: it is dying, or useless from now on.
            await self._wait(_LEAVE_SECONDS)
            await self.kill()
        return event

    async def kill(self) -> None:
        """Kill the process and everything it started, and wait until it is gone."""
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._wait(None)
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    async def stop(self) -> None:
        """Let an idle process end by itself, and kill it if it does not."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._wait(_LEAVE_SECONDS)
        await self.kill()

    def end(self) -> str:
        """Return how the process ended, as the predicate of a sentence."""
        code = self._process.returncode if self._process else None
        if code is None:
            return "is still running"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    async def _wait(self, seconds: float | None) -> None:
        assert self._gone is not None
        await asyncio.wait([self._gone], timeout=seconds)

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        # Also kill what the task started. Now, because the id may belong to another group later.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
