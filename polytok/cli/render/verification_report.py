"""Show verifications."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.markup import escape

from polytok import errors
from polytok.cli.render import json_documents, tables
from polytok.client import resource_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polytok.cli.render.output import Output
    from polytok.tokenizer.v1 import tokenizer_pb2


def follow(out: Output, responses: Iterable[tokenizer_pb2.VerifyResponse]) -> tokenizer_pb2.VerifyResult:
    """Show the progress of a verification on a terminal; return its result."""
    with out.status() as show_status:
        rate = Rate()
        for response in responses:
            if response.HasField("result"):
                return response.result
            show_status(progress(response.progress, rate))
    raise errors.Internal("The tokenizer ended the verification without a result.")


class Rate:
    """The average speed of encoding documents."""

    def __init__(self) -> None:
        self._since: tuple[float, int] | None = None

    def seen(self, done: int) -> str:
        """Record the number of documents done; return the speed once it is known."""
        now = time.monotonic()
        if self._since is None:
            self._since = (now, done)
        start, before = self._since
        return f", {tables.count(round((done - before) / (now - start)))} a second" if now - start >= 1 else ""


def progress(seen: tokenizer_pb2.VerifyProgress, rate: Rate) -> str:
    """Return the progress of a verification."""
    if seen.total_documents:
        done, total = (tables.count(count) or "0" for count in (seen.done_documents, seen.total_documents))
        return f"Encoded {done} of {total} documents{rate.seen(seen.done_documents)}"
    return f"Read {tables.size(seen.done_bytes) or '0 B'} of {tables.size(seen.total_bytes)}"


def show(out: Output, result: tokenizer_pb2.VerifyResult) -> None:
    """Print the result of a verification."""
    read = f"{tables.count(result.num_files) or 'no'} files with {tables.size(result.size_bytes) or '0 B'} were read"
    if result.sampled_documents:
        read += f", {tables.count(result.sampled_documents)} documents encoded again"
    lines = [f"[red]✗[/] {escape(finding.message)}" for finding in result.findings]
    if lines:
        lines.append(
            f"[bold red]{result.name} is damaged[/]: {read}. Repair it with "
            f"`polytok tokenization repair {resource_names.short(result.name)}`."
        )
    else:
        lines.append(f"[green]✓[/] {result.name} is undamaged: {read}.")
    if result.num_unknown_files:
        more = result.num_unknown_files - len(result.unknown_files)
        names = ", ".join(result.unknown_files) + (f" and {tables.count(more)} more" if more else "")
        lines.append(
            f"[yellow]Note:[/] polytok.json does not list {tables.count(result.num_unknown_files)} of the files in the "
            f"folder: {escape(names)}. Garbage collection deletes such files after its grace period, except files in "
            "subfolders and names that are not valid storage keys."
        )
    out.result(json_documents.record(result), "\n".join(lines))
