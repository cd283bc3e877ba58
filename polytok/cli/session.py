"""The session of a command: its client and its output. The client is imported on first use."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import typer

from polytok.cli import exit_codes
from polytok.cli.render.output import Output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from polytok.cli.render.progress import Watch
    from polytok.client import Client

PATIENCE_SECONDS = 0.5
"""How long a call is retried, besides what gRPC retries, and so how long a wrong address delays the error."""


class Session:
    """One run of a command."""

    def __init__(self, client: Client, out: Output) -> None:
        self.client = client
        self.out = out

    def show(self, record: Any) -> None:
        """Print one record."""
        from polytok.cli.render import json_documents, tables  # noqa: PLC0415

        document = json_documents.record(record)
        self.out.result(document, tables.details(self.out, record, document))

    def show_list(self, kind: str, records: Iterable[Any]) -> None:
        """Print the records of a collection, such as `datasets`."""
        from polytok.cli.render import json_documents, tables  # noqa: PLC0415

        listed = list(records)
        document = {kind: [json_documents.record(each) for each in listed]}
        if not listed:
            self.out.result(document, f"There are no {kind}.")
            return
        shown, hidden = self.out.shortened(getattr(tables, kind)(self.out, listed))
        self.out.result(document, shown)
        if hidden:
            self.out.remark(f"Not shown at this width: {', '.join(hidden)}. A wider terminal and --json show them.")

    def confirm_deletion(self, what: str, *, yes: bool) -> None:
        """Ask before something is deleted, if there is a terminal to answer on. Raise Abort if the answer is no."""
        if not yes and not self.out.as_json and self.out.is_terminal and sys.stdin.isatty():
            typer.confirm(f"Delete {what} and all files of it?", abort=True)

    def show_deleted(self, name: str) -> None:
        """Print that something is gone."""
        self.out.result({"deleted": name}, f"Deleted {name}.")

    def follow(self, watches: Sequence[Watch]) -> list[Any]:
        """Show the progress of records until all are in terminal states; return the last version of each."""
        from polytok.cli.render import progress  # noqa: PLC0415

        try:
            return progress.follow(self.out, self.client.address, watches)
        except KeyboardInterrupt:
            self.out.remark("The work continues in the stack. `watch` follows it again, `cancel` stops it.")
            raise

    def follow_one(self, collection: str, reference: Any) -> None:
        """Follow a record of a collection and print it; exit with 1 if it is not READY."""
        records = self.follow([lambda client: getattr(client, collection).watch(reference)])
        self.show(records[0])
        self.end(records)

    def follow_if(self, watched: bool, collection: str, record: Any) -> None:
        """Follow a record, or print it."""
        if watched:
            self.follow_one(collection, record)
        else:
            self.show(record)

    def show_training(self, record: Any) -> None:
        """Print one training."""
        from polytok.cli.render import json_documents, training_tables  # noqa: PLC0415

        self.out.result(json_documents.record(record), training_tables.details(self.out, record))

    def follow_training(self, record: Any) -> None:
        """Show a training and its metrics until its state is terminal.

        Exits with 7 if it was PAUSED on request, and with 1 if it is not READY for another reason.
        """
        from polytok.cli.render import training_tables  # noqa: PLC0415
        from polytok.client import resource_names, watch_stream  # noqa: PLC0415

        try:
            ended = training_tables.follow(self.out, self.client.trainings.follow(record))
        except KeyboardInterrupt:
            self.out.remark(
                "The training continues in the stack. `polytok training watch` follows it again, `pause` stops it at a "
                "checkpoint."
            )
            raise
        self.show_training(ended)
        if watch_stream.state(ended) == "PAUSED":
            self.out.remark(
                f"It was paused. `polytok training resume {resource_names.short(ended.name)}` continues it."
            )
            raise typer.Exit(exit_codes.PAUSED)
        self.end([ended])

    def follow_training_if(self, watched: bool, record: Any) -> None:
        """Follow a training, or print it."""
        if watched:
            self.follow_training(record)
        else:
            self.show_training(record)

    def end(self, records: Sequence[Any]) -> None:
        """Report each record that is not READY; exit with 1 if there is one."""
        from polytok import errors  # noqa: PLC0415
        from polytok.client import watch_stream  # noqa: PLC0415

        failed = False
        for record in records:
            try:
                watch_stream.ready(record)
            except errors.PolytokError as error:
                self.out.failure(error)
                failed = True
        if failed:
            raise typer.Exit(exit_codes.FAILED)


@contextlib.contextmanager
def start(catalog: str | None, as_json: bool) -> Iterator[Session]:
    """Yield a session with a client of the catalog."""
    from polytok.client import Client  # noqa: PLC0415

    out = Output(as_json=as_json)
    with Client(catalog, patience=PATIENCE_SECONDS) as client:
        yield Session(client, out)
