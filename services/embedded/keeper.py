"""Keeps one program running: starts it, starts it again when it dies, stops it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

from polytok import errors
from services.embedded.logs import Log
from services.embedded.program import Program

START_SECONDS = 120.0
STOP_SECONDS = 30.0
_FORCE_SECONDS = 5.0
_POLL_SECONDS = 0.03
_BACKOFF_SECONDS = 0.5
_BACKOFF_MAXIMUM_SECONDS = 30.0
_STABLE_SECONDS = 60.0


class StartFailed(errors.FailedPrecondition):
    """A program did not come up."""


class Keeper:
    """Keeps one program running. All of it runs on the event loop's thread: the kernel ties children to a thread."""

    def __init__(
        self, program: Program, log: Log, *, inherited: int, report: Callable[[str], None], changed: Callable[[], None]
    ) -> None:
        self.program = program
        self.log = log
        self._inherited = inherited
        self._report = report
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0

    @property
    def pid(self) -> int:
        """The process id now; 0 between two lives."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Starts the program and returns once it is ready; raises StartFailed if it ends, or takes too long."""
        await asyncio.to_thread(self.program.prepare)
        self.log.rotate()
        with self.log.open() as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command(),
                env=dict(self.program.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._inherited,),
                start_new_session=True,  # Ctrl-C on the terminal is for the supervisor alone: it stops in good order
            )
        self._started_at = time.monotonic()
        while not await asyncio.to_thread(self.program.is_ready):
            code = self._process.returncode
            if code is not None:
                raise StartFailed(self._explain(f"ended at its start ({_outcome(code)})"))
            if time.monotonic() - self._started_at > START_SECONDS:
                await self.stop()
                raise StartFailed(self._explain(f"was not ready within {START_SECONDS:g} s"))
            await asyncio.sleep(_POLL_SECONDS)

    async def keep(self) -> None:
        """Starts the program again whenever it ends, waiting longer each time that it does so soon. Until cancelled."""
        wait = _BACKOFF_SECONDS
        while True:
            assert self._process is not None
            code = await self._process.wait()
            if time.monotonic() - self._started_at > _STABLE_SECONDS:
                wait = _BACKOFF_SECONDS
            self._report(f"{self.program.name} ended ({_outcome(code)}); starting it again in {wait:g} s")
            await asyncio.sleep(wait)
            wait = min(wait * 2, _BACKOFF_MAXIMUM_SECONDS)
            try:
                await self.start()
            except errors.PolytokError as error:
                self._report(error.message)
                continue
            self._report(f"{self.program.name} is ready again")
            self._changed()

    async def stop(self) -> None:
        """Stops the program in good order, or at once if that takes too long."""
        if self._process is None:
            return
        self._signal(self.program.stop_signal)
        if await self._ended(within=STOP_SECONDS):
            return
        self._report(f"{self.program.name} did not stop within {STOP_SECONDS:g} s; ending it")
        self.force()
        if not await self._ended(within=_FORCE_SECONDS):
            self._signal(signal.SIGKILL)
            await self._process.wait()

    def force(self) -> None:
        """Ends the program at once."""
        self._signal(self.program.force_signal)

    async def _ended(self, *, within: float) -> bool:
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._process.wait()
        return self._process.returncode is not None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _explain(self, what: str) -> str:
        tail = self.log.tail()
        return f"{self.program.name} {what}. Its log is {self.log.path}" + (f" and ends with:\n{tail}" if tail else ".")


def _outcome(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
