"""Following records until they are done: bars on a terminal, a line for each change on a pipe."""

from __future__ import annotations

import asyncio
import datetime
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from polytok.cli.render import tables
from polytok.client import AsyncClient, resource_names, watch_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from rich.console import Console

    from polytok.cli.render.output import Output

    Watch = Callable[[AsyncClient], AsyncIterator[Any]]


def follow(out: Output, address: str, watches: Sequence[Watch]) -> list[Any]:
    """Show all records side by side until each is done; return them as they then are.

    Ctrl-C ends it with KeyboardInterrupt, and a second one at once.
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
    _hear_interrupts()
    async with AsyncClient(address) as client:
        return await asyncio.gather(*(_one(display, watch(client)) for watch in watches))


def _hear_interrupts() -> None:
    """Have Ctrl-C cancel the task that runs.

    `asyncio.run` does so too, but a signal that comes just before the loop goes to sleep, or that another thread gets,
    does not wake the loop there; one with a handler of the loop's own does.
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
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}"),
            console=console,
        )

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, record: Any) -> None:
        if record.name not in self._bars:
            self._bars[record.name] = self._progress.add_task(
                resource_names.short(record.name), total=100, state="", speed=""
            )
        bar = self._bars[record.name]
        percent = 100 if watch_stream.state(record) == "READY" else getattr(record, "progress", 0)
        word = f"[{tables.colour(record)}]{watch_stream.state(record)}[/]"
        self._progress.update(bar, completed=percent, state=word, speed=_speed(record))
        if watch_stream.is_terminal(record):
            self._progress.stop_task(bar)


def _speed(record: Any) -> str:
    """Tokens a second and the time left, of a record that tells how many tokens are expected."""
    expected, percent = getattr(record, "expected_tokens", 0), getattr(record, "progress", 0)
    if not expected or not percent or watch_stream.is_terminal(record) or not record.HasField("start_time"):
        return ""
    seconds = max(1.0, time.time() - record.start_time.seconds)
    left = datetime.timedelta(seconds=round(seconds * (100 - percent) / percent))
    return f"{expected * percent / 100 / seconds:,.0f} tokens/s, {left} left"


class _Lines:
    """A line for each new state, and for each tenth of the work."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return

    def update(self, record: Any) -> None:
        tenth = int(getattr(record, "progress", 0) // 10)
        word = watch_stream.state(record)
        shown = (word, 0 if watch_stream.is_terminal(record) else tenth)
        if self._last.get(record.name) != shown:
            self._last[record.name] = shown
            percent = "" if watch_stream.is_terminal(record) or not tenth else f" {record.progress:.0f} %"
            self._console.print(f"{resource_names.short(record.name)} {word}{percent}")
