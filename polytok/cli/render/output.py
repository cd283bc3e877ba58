"""The output of a command: tables for people, one JSON document for scripts."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import JustifyMethod, RenderableType

    from polytok import errors

_PIPE_WIDTH = 10_000


class Output:
    """Writes a command's result and remarks.

    With `as_json`, stdout gets one JSON document and stderr everything else. Otherwise only errors go to stderr. On a
    pipe, tables have neither frames nor a maximum width.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._stdout = _console(sys.stdout)
        self._stderr = _console(sys.stderr)
        self.remarks = self._stderr if as_json else self._stdout

    @property
    def is_terminal(self) -> bool:
        """Whether results go to a terminal."""
        return self._stdout.is_terminal

    def result(self, document: Any, shown: RenderableType) -> None:
        """Print the result of a command, once."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        elif self._stdout.is_terminal:
            self._stdout.print(shown, soft_wrap=isinstance(shown, str))
        else:
            with self._stdout.capture() as captured:
                self._stdout.print(shown, soft_wrap=isinstance(shown, str))
            sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))  # tables are padded

    @property
    def width(self) -> int:
        """Width of a line in characters; thousands on a pipe."""
        return self._stdout.width

    def has_room_for(self, table: Table) -> bool:
        """Return whether a table fits the width without truncation."""
        wide = Console(width=_PIPE_WIDTH, height=1)  # without a height, a dumb terminal has 80 columns
        return wide.measure(table).maximum <= self._stdout.width

    def shortened(self, table: Table) -> tuple[Table, list[str]]:
        """Return the table without the last columns that do not fit the terminal, and their headings.

        Columns up to `state` stay: names are never split, because they are copied from here.
        """
        hidden: list[str] = []
        needed = [column.header for column in table.columns].index("state") + 1
        while self.is_terminal and len(table.columns) > needed and not self.has_room_for(table):
            hidden.insert(0, str(table.columns.pop().header))
        return self.fitted(table), hidden

    def fitted(self, table: Table) -> Table:
        """Return the table, or one line per cell if the terminal is too narrow, so that no digits are cut off."""
        if not self.is_terminal or self.has_room_for(table):
            return table
        lines = self.table("", "")
        lines.show_header = False
        for row in zip(*(column.cells for column in table.columns), strict=True):
            for column, cell in zip(table.columns, row, strict=True):
                lines.add_row(f"[dim]{column.header}[/]", cell)
            lines.add_section()
        return lines

    def remark(self, text: str) -> None:
        """Print a remark for people; omitted with `--json` if stderr is not a terminal."""
        if not self.as_json or self._stderr.is_terminal:
            self.remarks.print(text, soft_wrap=True)

    @contextlib.contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        """Yield a function that updates a status line, which is shown only on a terminal."""
        if not self.remarks.is_terminal:
            yield lambda _: None
            return
        with self.remarks.status("Starting") as status:
            yield status.update

    def failure(self, error: errors.PolytokError) -> None:
        """Print an error."""
        from polytok.cli.render import json_documents  # noqa: PLC0415  imports protobuf

        if self.as_json:
            sys.stderr.write(json.dumps(json_documents.error(error), indent=2, ensure_ascii=False) + "\n")
        else:
            self._stderr.print(f"[bold red]Error:[/] {escape(error.message)}", soft_wrap=True)
            for field, description in error.violations:
                if description not in error.message:
                    self._stderr.print(
                        escape(f"  {field}: {description}" if field else f"  {description}"), soft_wrap=True
                    )

    def table(self, *headings: str, title: str | None = None) -> Table:
        """Return an empty table; headings that end in `#` are of numeric columns."""
        on_terminal = self._stdout.is_terminal
        table = Table(
            title=title if on_terminal else None,
            title_justify="left",
            title_style="bold",
            box=box.ROUNDED if on_terminal else None,
            header_style="bold",
            pad_edge=on_terminal,
        )
        for heading in headings:
            is_number = heading.endswith("#")
            justify: JustifyMethod = "right" if is_number else "left"
            table.add_column(heading.removesuffix("#"), justify=justify, no_wrap=is_number, overflow="fold")
        return table

    def facts(self, title: str, pairs: Sequence[tuple[str, str]]) -> Table:
        """Return a table of names and values."""
        table = self.table("", "", title=title)
        table.show_header = False
        for name, value in pairs:
            table.add_row(f"[dim]{name}[/]", value)
        return table


def _console(stream: Any) -> Console:
    is_terminal = stream.isatty()
    return Console(file=stream, width=None if is_terminal else _PIPE_WIDTH, highlight=False, emoji=False)
