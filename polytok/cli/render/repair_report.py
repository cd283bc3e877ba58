"""Show repairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from polytok import errors
from polytok.cli.render import json_documents, tables
from polytok.client import resource_names, watch_stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polytok.catalog.v1 import tokenizations_pb2
    from polytok.cli.render.output import Output

_MOST_LINES = 20


def follow(out: Output, repairs: Iterable[tokenizations_pb2.Repair]) -> None:
    """Show the progress of a repair on a terminal until its state is terminal."""
    with out.status() as show_status:
        for repair in repairs:
            found = f", {len(repair.damages)} damaged" if repair.damages else ""
            show_status(f"{watch_stream.state(repair)} {repair.progress:.0f} %{found}")


def show(out: Output, record: tokenizations_pb2.Tokenization) -> bool:
    """Print the findings and changes of a repair; return whether it is done."""
    repair, name = record.repair, record.name
    state = watch_stream.state(repair)
    lines = [f"[red]✗[/] {escape(damage)}" for damage in repair.damages[:_MOST_LINES]]
    if len(repair.damages) > _MOST_LINES:
        lines.append(f"… and {len(repair.damages) - _MOST_LINES} more")
    lines += [f"[yellow]![/] {escape(change)}" for change in repair.changes]
    if state == "DONE":
        lines.append(f"[green]✓[/] {name} is {_done(repair)}.")
    elif state in {"ERROR", "CANCELLED"}:
        lines.append(f"[bold red]{name} was not repaired[/]; its files are no worse than before.")
        out.failure(
            errors.FailedPrecondition(f"The repair is {state}. {repair.error_message}".strip(), reason="WRONG_STATE")
        )
    else:
        lines.append(
            f"The repair of {name} is {state}: `polytok tokenization repair {resource_names.short(name)}` follows it."
        )
    out.result(json_documents.record(record), "\n".join(lines))
    return state == "DONE"


def _done(repair: tokenizations_pb2.Repair) -> str:
    if not repair.damages and repair.checksums_only:
        return "undamaged; its ids were not checked"
    if not repair.damages:
        return "undamaged; nothing was changed"
    made = f"{tables.count(repair.num_remade) or 'no'} Arrow file{'' if repair.num_remade == 1 else 's'} rebuilt"
    return f"repaired, {made}" + ("" if repair.changes else "; every file is identical to the original")
