"""Keeps one program running: starts it, starts it again when it dies, stops it."""

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
"""After how many a program does what may help it."""
_LINE = 300


class StartFailed(errors.FailedPrecondition):
    """A program did not come up. `line` says so in one line, the message with the end of its log."""

    def __init__(self, line: str, tail: str = "") -> None:
        super().__init__(f"{line}. {tail}" if tail else f"{line}.")
        self.line = line


class ManagedProcess:
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
        self._failure = ""
        self._renewing = False

    @property
    def pid(self) -> int:
        """The process id now; 0 between two lives."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start the program and returns once it is ready; raises StartFailed if it ends, or takes too long."""
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
                start_new_session=True,  # Ctrl-C on the terminal is for the supervisor alone: it stops in good order
            )
        self._started_at = time.monotonic()
        while not await asyncio.to_thread(self.program.is_ready):
            code = self._process.returncode
            if code is not None:
                raise self._explain(f"ended at its start ({_outcome(code)})")
            if time.monotonic() - self._started_at > START_SECONDS:
                await self.stop()
                raise self._explain(f"was not ready within {START_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def keep(self) -> None:
        """Start the program again whenever it ends, waiting longer each time that it does so soon. Until cancelled."""
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
                self._report(f"{self.program.name} {what}; starting it again in {wait:g} s")
                await asyncio.sleep(wait)
                wait = min(wait * 2, _BACKOFF_MAXIMUM_SECONDS)
            if await self._start_again():
                failed = 0
                continue
            failed += 1
            if failed % _FAILED_STARTS == 0:
                await self._recover()

    async def renew(self) -> None:
        """Have the program, which runs and does not work, recover and start again; `keep` must be at work."""
        self._renewing = True
        await self.stop()

    async def _until_it_ends(self) -> str:
        """Wait until the program does not run, and says why."""
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
        """Tell in one line why the program could not be started, and leave nothing of it behind: `keep` goes on."""
        if isinstance(error, StartFailed):
            self._report(error.line)
            return
        await self.stop()
        if isinstance(error, errors.PolytokError):
            what = error.message
        else:
            what = folders.explain(error, "starting it", self.log.path.parent)
        self._failure = f"could not be started: {' '.join(what.split()).rstrip('.')}"

    async def _recover(self) -> None:
        try:
            did = await asyncio.to_thread(self.program.recover)
        except OSError as error:
            did = folders.explain(error, "setting its files aside")
        if did:
            self._report(f"{self.program.name}: {did}")

    async def stop(self) -> None:
        """Stop the program in good order, or at once if that takes too long."""
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
        """End the program at once."""
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
        return StartFailed(line, f"Its log is {self.log.path}" + (f" and ends with:\n{tail}" if tail else "."))


def _outcome(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
