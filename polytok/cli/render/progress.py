"""Follow records until they are done: bars on a terminal, a line for each milestone on a pipe."""

from __future__ import annotations

import asyncio
import datetime
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from polytok.cli.render import tables
from polytok.client import AsyncClient, resource_names, watch_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from rich.console import Console

    from polytok.cli.render.output import Output

    Watch = Callable[[AsyncClient], AsyncIterator[Any]]


def follow(out: Output, address: str, watches: Sequence[Watch]) -> list[Any]:
    """Show all records until their states are terminal; return the last version of each.

    Ctrl-C raises KeyboardInterrupt; a second one takes effect immediately.
    """
    display: _Display
    if out.remarks.is_terminal:
        display = _Bars(out.remarks)
    elif out.as_json:
        display = _Nothing()
    else:
        display = _Lines(out.remarks)
    with display:
        try:
            return asyncio.run(_follow(display, address, watches))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _follow(display: _Display, address: str, watches: Sequence[Watch]) -> list[Any]:
    _cancel_on_interrupt()
    async with AsyncClient(address) as client:
        return await asyncio.gather(*(_one(display, watch(client)) for watch in watches))


def _cancel_on_interrupt() -> None:
    """Make Ctrl-C cancel the current task.

    `asyncio.run` does so too, but a signal that arrives just before the loop sleeps, or in another thread, does not
    wake the loop there. A signal with a handler of the loop does.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupted)


async def _one(display: _Display, versions: AsyncIterator[Any]) -> Any:
    record = None
    async for version in versions:
        record = version
        display.update(record)
    return record


class _Display(Protocol):
    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, record: Any) -> None:
        """Show a version of a record."""


class _Nothing:
    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return

    def update(self, record: Any) -> None:
        return


class _Bars:
    """A bar for each record."""

    def __init__(self, console: Console) -> None:
        self._bars: dict[str, TaskID] = {}
        self._progress = bar(console, TextColumn("{task.fields[speed]}"))

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, record: Any) -> None:
        if record.name not in self._bars:
            self._bars[record.name] = self._progress.add_task(
                resource_names.short(record.name), total=100, state="", speed=""
            )
        task = self._bars[record.name]
        percent = 100 if watch_stream.state(record) == "READY" else getattr(record, "progress", 0)
        word = f"[{tables.colour(record)}]{watch_stream.state(record)}[/]"
        self._progress.update(task, completed=percent, state=word, speed=_speed(record))
        if watch_stream.is_terminal(record):
            self._progress.stop_task(task)


def _speed(record: Any) -> str:
    """Return tokens per second and the time left, if the record has an expected number of tokens."""
    expected, percent = getattr(record, "expected_tokens", 0), getattr(record, "progress", 0)
    if not expected or not percent or watch_stream.is_terminal(record) or not record.HasField("start_time"):
        return ""
    seconds = max(1.0, time.time() - record.start_time.seconds)
    left = datetime.timedelta(seconds=round(seconds * (100 - percent) / percent))
    return f"{expected * percent / 100 / seconds:,.0f} tokens/s, {left} left"


class _Lines:
    """A line for each milestone of each record."""

    def __init__(self, console: Console) -> None:
        self._milestones = Milestones(console)

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return

    def update(self, record: Any) -> None:
        self._milestones.show(record)


class Milestones:
    """Prints a line for each new state of a record, and for each tenth of its work."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, int]] = {}

    def show(self, record: Any, activity: str = "") -> bool:
        """Print the state and `activity` of a record if they reached a milestone; return whether they did."""
        ended = watch_stream.is_terminal(record)
        tenth = 0 if ended else int(getattr(record, "progress", 0) // 10)
        milestone = f"{watch_stream.state(record)} {activity}".rstrip(), tenth
        if self._last.get(record.name) == milestone:
            return False
        self._last[record.name] = milestone
        percent = f" {record.progress:.0f} %" if tenth else ""
        self._console.print(f"{resource_names.short(record.name)} {milestone[0]}{percent}")
        return True


def bar(console: Console | None, *columns: ProgressColumn) -> Progress:
    """Return progress bars with a description, a percentage and a state, followed by these columns."""
    return Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        *columns,
        console=console,
    )
