"""The frame of a service's `main`: signals, background tasks, and one line on standard error if it cannot start."""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from polytok import disk_space, environment, errors
from services.runtime.telemetry import logging

MIGRATE = "migrate"
_CANCEL_AGAIN_SECONDS = 0.5

_log = logging.get(__name__)


class StopSignal:
    """Signals every part of a process to stop."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def is_set(self) -> bool:
        """Return whether a stop was requested."""
        return self.event.is_set()

    def set(self) -> None:
        """Request the stop."""
        self.event.set()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for the stop, for at most `seconds`; return whether it was requested."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.event.wait()
        return self.event.is_set()


def run(main: Callable[[StopSignal], Awaitable[None]]) -> None:
    """Run a service until it ends. The first SIGTERM or SIGINT requests a stop, the second kills it.

    An error of ours (an invalid variable, an unavailable database) ends the process with one line and status 1; any
    other error with its traceback in the log and status 1.
    """
    try:
        environment.check()
        asyncio.run(_until_done(main))
    except errors.PolytokError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(1)
    except OSError as error:
        if not disk_space.is_full(error):
            _log.exception("stopped by an unexpected error")
            sys.exit(1)
        sys.stderr.write(f"{disk_space.full('starting or running', error.filename, error=error).message}\n")
        sys.exit(1)
    except Exception:
        _log.exception("stopped by an unexpected error")
        sys.exit(1)


def run_command(service: str, commands: Mapping[str, tuple[str, Callable[[Sequence[str]], None]]]) -> None:
    """Run the program of a service that the command line names: name → help, and what runs it.

    Each imports what it needs and no more. Only `migrate` takes further arguments.
    """
    parser = argparse.ArgumentParser(prog=f"python -m services.{service}", description=f"The {service}'s programs.")
    added = parser.add_subparsers(dest="command", required=True)
    for name, (text, _) in commands.items():
        added.add_parser(name, help=text, add_help=name != MIGRATE)
    chosen, rest = parser.parse_known_args()
    if rest and chosen.command != MIGRATE:
        parser.error(f"unexpected: {' '.join(rest)}")
    commands[chosen.command][1](rest)


async def _until_done(main: Callable[[StopSignal], Awaitable[None]]) -> None:
    stop = StopSignal()
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        _log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    await main(stop)


async def supervise(
    *, stop: StopSignal, tasks: Mapping[str, Coroutine[Any, Any, None]], drain_seconds: float = 0
) -> None:
    """Run named background tasks until a stop is requested or all have ended.

    If one fails, the others are cancelled and its error is raised. After a stop request each has drain_seconds to end
    before it is cancelled.
    """
    if not tasks:
        await stop.wait()
        return
    running = {asyncio.create_task(coroutine, name=name) for name, coroutine in tasks.items()}
    asked = asyncio.create_task(stop.event.wait(), name="stop")
    try:
        pending = await _until_stopped(running, asked)
        if pending and drain_seconds:
            done, _ = await asyncio.wait(pending, timeout=drain_seconds, return_when=asyncio.FIRST_EXCEPTION)
            _raise_failure(done)
    finally:
        await _cancel({*running, asked})


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel until all have ended: Python 3.11's `wait_for` loses a cancellation that coincides with its result."""
    pending = tasks
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)


async def _until_stopped(running: set[asyncio.Task[None]], asked: asyncio.Task[Any]) -> set[asyncio.Task[None]]:
    pending = set(running)
    while pending and not asked.done():
        await asyncio.wait({*pending, asked}, return_when=asyncio.FIRST_COMPLETED)
        done = {task for task in pending if task.done()}
        pending -= done
        _raise_failure(done)
    return pending


def _raise_failure(done: set[asyncio.Task[None]]) -> None:
    for task in done:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("background task failed", task=task.get_name(), error=f"{type(error).__name__}: {error}")
            raise error


def write_ready_file(**facts: Any) -> None:
    """Write the facts as JSON to the path in POLYTOK_READY_FILE, atomically, for the parent process."""
    target = os.environ.get("POLYTOK_READY_FILE")
    if not target:
        return
    path = pathlib.Path(target)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(facts), encoding="utf-8")
    staged.replace(path)
