"""Format the `--help` of commands: option names are never truncated, even on a terminal of 80 characters."""

import inspect
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.panel import Panel
    from rich.text import Text

_WIDEST_NAME = 26
"""Maximum width of an option with its value on one line."""
_NAME = "bold cyan"
_VALUE = "yellow"


class Command(TyperCommand):
    """A command with this help format."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; bypasses the plain-text formatter."""
        from rich.console import Console  # noqa: PLC0415  not needed to run a command
        from rich.padding import Padding  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        del formatter
        console = Console(highlight=False, emoji=False)
        console.print(Padding(Text(self.get_usage(ctx), "bold"), 1))
        text = Text.from_markup(inspect.cleandoc(self.help or ""), emoji=False)
        console.print(Padding(text, (0, 1, 1, 1)))
        for panel in _panels(self.get_params(ctx), ctx):
            console.print(panel)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the arguments, optional ones in brackets."""
        pieces = [_argument(each) for each in self.get_params(ctx) if _is_argument(each)]
        return ["[OPTIONS]", *pieces]


class App(typer.Typer):
    """An application whose commands have this help format."""

    def command(self, *args: Any, **kwargs: Any) -> "Callable[[Any], Any]":
        """See typer.Typer."""
        return super().command(*args, **{"cls": Command, **kwargs})


def _panels(parameters: list[Any], ctx: Any) -> "Iterator[Panel]":
    """Yield panels of arguments, of options, and then the named ones in the order of their first option."""
    from rich.panel import Panel  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    found: dict[str, list[Any]] = {"Arguments": [], "Options": []}
    for each in parameters:
        if not each.hidden:
            usual = "Arguments" if _is_argument(each) else "Options"
            found.setdefault(each.rich_help_panel or usual, []).append(each)
    for title, listed in found.items():
        if listed:
            table = Table.grid(padding=(0, 2), expand=True)
            table.add_column(no_wrap=True, overflow="fold")
            table.add_column(ratio=1, overflow="fold")
            for each in listed:
                table.add_row(_name(each, ctx), _description(each, ctx))
            yield Panel(table, title=title, title_align="left", border_style="dim")


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _name(parameter: Any, ctx: Any) -> "Text":
    """Return the names of an option and its value, which continues on the next line if it is long."""
    from rich.text import Text  # noqa: PLC0415

    if _is_argument(parameter):
        return Text(_argument(parameter), _VALUE)
    text = Text(", ".join(sorted(parameter.opts, key=len)), _NAME)
    for name in parameter.secondary_opts:
        text.append(f"\n{name}")
    value = "" if parameter.is_flag else parameter.metavar or parameter.make_metavar(ctx=ctx)
    if not value:
        return text
    if len(text) + 1 + len(value) <= _WIDEST_NAME:
        return text.append(" ").append(value, _VALUE)
    for line in _lines(value):
        text.append("\n  ").append(line, _VALUE)
    return text


def _lines(value: str) -> "Iterator[str]":
    """Yield the lines of a value, broken after `|`."""
    line = ""
    for word in value.replace("|", "|\0").split("\0"):
        if line and len(line) + len(word) > _WIDEST_NAME - 2:
            yield line
            line = ""
        line += word
    yield line


def _description(parameter: Any, ctx: Any) -> "Text":
    """Return the help of a parameter with its range, default, environment variable and whether it is required."""
    from rich.text import Text  # noqa: PLC0415

    own = parameter.help or ""
    text = Text.from_markup(own, emoji=False)
    _, whole = parameter.get_help_record(ctx)
    more = whole.removeprefix(own).strip().replace("\\[", "[")
    return text.append(f" {more}", "dim") if more else text
