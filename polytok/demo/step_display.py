"""Show the steps of the demo: the current activity, then a line with the result and its duration."""

import contextlib
import time
from collections.abc import Iterator

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from polytok.cli.render.output import Output


class Step:
    """A running step."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self.done = ""

    def say(self, text: str) -> None:
        """Show the current activity."""
        self._progress.update(self._task, description=text)

    def advance(self, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total)

    def finish(self, text: str) -> None:
        """Set the result to show at the end of the step."""
        self.done = text


@contextlib.contextmanager
def step(out: Output, title: str, doing: str) -> Iterator[Step]:
    """Yield a step with a spinner and a bar on a terminal; print one line at its end."""
    began = time.monotonic()
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TimeElapsedColumn(),
        console=out.remarks,
        transient=True,
        disable=not out.remarks.is_terminal,
    )
    with progress:
        current = Step(progress, progress.add_task(doing, total=None))
        yield current
    line(out, title, current.done, time.monotonic() - began)


def line(out: Output, title: str, text: str, seconds: float | None = None) -> None:
    """Print a finished step."""
    took = "" if seconds is None else f" [dim]({seconds:.1f} s)[/]"
    out.remark(f"[green]✓[/] [bold]{title:<10}[/] {text}{took}")
