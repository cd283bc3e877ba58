"""A process that answers one request after another, started by the first request and stopped when idle.

It runs `task_process_main.serve` like the process that runs a worker's tasks, but is separate from that one, which is
busy
for minutes at a time.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok import errors
from polytok.jobs.v1 import messages_pb2
from services.jobs import failures
from services.jobs.task_process import TaskProcess, TaskProcessFailed
from services.runtime.telemetry import logging

IDLE_SECONDS = 300.0
"""How long an idle process is kept."""
_WAITING = 64
ANSWER_SECONDS = 60.0
"""How long a process may take to answer, including its start, before it is killed."""

_log = logging.get(__name__)

Answer = TypeVar("Answer", bound=Message)


class SubprocessClient:
    """One process that answers one request after another."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        service: str,
        about: str,
        memory_bytes: int = 0,
        idle_seconds: float = IDLE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """`about` is the subject in messages, such as "The tokenizer"."""
        self._child = TaskProcess(command, service=service, memory_bytes=memory_bytes)
        self._about = about
        self._idle_seconds = idle_seconds
        self._answer_seconds = answer_seconds
        self._lock = asyncio.Lock()
        self._asked: set[asyncio.Task[bytes]] = set()
        self._idle: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 without a process."""
        return self._child.pid if self._child.alive else 0

    async def ask(self, kind: str, question: Message, answer: type[Answer]) -> Answer:
        """Send a request and return the answer, or raise the process's error."""
        if len(self._asked) >= _WAITING:
            raise errors.Unavailable(f"{self._about} has too many pending requests. Try again shortly.")
        payload = any_pb2.Any()
        payload.Pack(question)
        task = asyncio.create_task(self._exchange(kind, payload.SerializeToString()), name=f"answer-{kind}")
        self._asked.add(task)
        task.add_done_callback(self._forget)
        # A caller that disconnects leaves its request behind: its answer must not be taken for that to the next one.
        found = any_pb2.Any.FromString(await asyncio.shield(task))
        message = answer()
        found.Unpack(message)
        return message

    async def close(self) -> None:
        """Stop the process."""
        waiting = [*self._asked, *([self._idle] if self._idle else [])]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._child.stop()

    def _forget(self, task: asyncio.Task[bytes]) -> None:
        self._asked.discard(task)
        if not task.cancelled():
            # The caller may have disconnected.
            task.exception()

    async def _exchange(self, kind: str, payload: bytes) -> bytes:
        async with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                async with asyncio.timeout(self._answer_seconds):
                    event = await self._answer(messages_pb2.TaskCommand(kind=kind, payload=payload))
            except TimeoutError:
                await self._child.kill()
                raise errors.DeadlineExceeded(
                    f"{self._about} did not answer within {self._answer_seconds:g} s. Check the log and, for a hub "
                    "repository, the network connection.",
                ) from None
            except asyncio.CancelledError:
                await self._child.kill()
                raise
            self._idle = asyncio.create_task(self._end_idle(), name="answers-idle")
        if event.HasField("error"):
            raise failures.from_task_error(event.error)
        return event.result

    async def _answer(self, task: messages_pb2.TaskCommand) -> messages_pb2.TaskEvent:
        if not self._child.alive:
            try:
                await self._child.start()
            except TaskProcessFailed as failure:
                raise errors.Unavailable(f"{failure} See the log for details.") from failure
            _log.info("answers ready", pid=self._child.pid)
        await self._child.send(task)
        while (event := await self._child.receive()) is not None:
            if event.HasField("result") or event.HasField("error"):
                return event
        raise process_lost_error(self._child)

    async def _end_idle(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(self._idle_seconds)
            async with self._lock:
                await self._child.stop()


def process_lost_error(child: TaskProcess) -> errors.Unavailable:
    """Return the error for a process that died while it answered."""
    return errors.Unavailable(
        f"The answering process {child.end()}. Try again, or give it more memory.", reason="WORKER_LOST"
    )
