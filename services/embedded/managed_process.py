"""Run one program: start it, restart it when it ends, stop it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

from polytok import disk_space, errors
from services.embedded import folders
from services.embedded.logs import Log
from services.embedded.program import Program

START_SECONDS = 120.0
STOP_SECONDS = 30.0
_FORCE_SECONDS = 5.0
_POLL_SECONDS = 0.03
_BACKOFF_SECONDS = 0.5
_BACKOFF_MAXIMUM_SECONDS = 30.0
_STABLE_SECONDS = 60.0
_FAILED_STARTS = 3
"""Failures in a row after which the program's `recover` is called."""
_LINE = 300


class StartFailed(errors.FailedPrecondition):
    """Raised when a program does not start. `line` is a one-line summary; the message adds the end of the log."""

    def __init__(self, line: str, tail: str = "") -> None:
        super().__init__(f"{line}. {tail}" if tail else f"{line}.")
        self.line = line


class ManagedProcess:
    """Keeps one program running. Use it on the event loop's thread only: the kernel ties children to a thread."""

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
        self._failure = ""
        self._renewing = False

    @property
    def pid(self) -> int:
        """The current process id; 0 while the program does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start the program and return once it is ready. Raise StartFailed if it ends first or takes too long."""
        self._started_at = time.monotonic()
        await asyncio.to_thread(self.program.prepare)
        self.log.rotate()
        with self.log.open() as log:
            if self.log.trouble:
                self._report(self.log.trouble)
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command(),
                env=dict(self.program.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._inherited,),
                start_new_session=True,  # Ctrl-C on the terminal goes to the supervisor alone, which stops this
            )
        self._started_at = time.monotonic()
        while not await asyncio.to_thread(self.program.is_ready):
            code = self._process.returncode
            if code is not None:
                raise self._explain(f"ended during startup ({_outcome(code)})")
            if time.monotonic() - self._started_at > START_SECONDS:
                await self.stop()
                raise self._explain(f"was not ready within {START_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def keep(self) -> None:
        """Restart the program whenever it ends, with a growing delay while it keeps ending soon."""
        wait = _BACKOFF_SECONDS
        failed = 0
        while True:
            what = await self._until_it_ends()
            if time.monotonic() - self._started_at > _STABLE_SECONDS:
                wait = _BACKOFF_SECONDS
            if self._renewing:
                self._renewing = False
                await self._recover()
            else:
                self._report(f"{self.program.name} {what}; restarting in {wait:g} s")
                await asyncio.sleep(wait)
                wait = min(wait * 2, _BACKOFF_MAXIMUM_SECONDS)
            if await self._start_again():
                failed = 0
                continue
            failed += 1
            if failed % _FAILED_STARTS == 0:
                await self._recover()

    async def renew(self) -> None:
        """Recover and restart a program that runs but does not work. Needs a running `keep`."""
        self._renewing = True
        await self.stop()

    async def _until_it_ends(self) -> str:
        """Wait until the program does not run, and return why."""
        if self._failure:
            what, self._failure = self._failure, ""
            return what
        assert self._process is not None
        return f"ended ({_outcome(await self._process.wait())})"

    async def _start_again(self) -> bool:
        try:
            await self.start()
        except (errors.PolytokError, OSError) as error:
            await self.fail(error)
            return False
        self._renewing = False
        self._report(f"{self.program.name} is ready again")
        self._changed()
        return True

    async def fail(self, error: errors.PolytokError | OSError) -> None:
        """Record in one line why the program could not be started, and stop what is left of it; `keep` tries again."""
        if isinstance(error, StartFailed):
            self._report(error.line)
            return
        await self.stop()
        if isinstance(error, errors.PolytokError):
            what = error.message
        else:
            what = folders.explain(error, "starting it", self.log.path.parent)
        self._failure = f"failed to start: {' '.join(what.split()).rstrip('.')}"

    async def _recover(self) -> None:
        try:
            did = await asyncio.to_thread(self.program.recover)
        except OSError as error:
            did = folders.explain(error, "moving its files aside")
        if did:
            self._report(f"{self.program.name}: {did}")

    async def stop(self) -> None:
        """Stop the program gracefully, or kill it if that takes too long."""
        if self._process is None:
            return
        self._signal(self.program.stop_signal)
        if await self._ended(within=STOP_SECONDS):
            return
        self._report(f"{self.program.name} did not stop within {STOP_SECONDS:g} s; killing it")
        self.force()
        if not await self._ended(within=_FORCE_SECONDS):
            self._signal(signal.SIGKILL)
            await self._process.wait()

    def force(self) -> None:
        """Kill the program."""
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

    def _explain(self, what: str) -> StartFailed:
        tail = self.log.tail()
        last = tail.rstrip().rpartition("\n")[2].strip()[:_LINE]
        full = disk_space.scarce(self.log.path)
        line = " ".join(
            part
            for part in (
                f"{self.program.name} {what}" + (f": {last}" if last else ""),
                f"({full})" if full else "",
            )
            if part
        )
        return StartFailed(line, f"See the log {self.log.path}" + (f", which ends with:\n{tail}" if tail else "."))


def _outcome(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
