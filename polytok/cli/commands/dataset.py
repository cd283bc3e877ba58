"""`polytok dataset`."""

import re
from typing import Annotated

import typer

from polytok.cli import help_format, session
from polytok.cli.options import shared

_FILES = "File formats"
_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\"}

app = help_format.App(no_args_is_help=True, help="Corpora, imported once and tokenized for any number of models.")


@app.command()
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Id of the new dataset: lower-case letters, digits, . _ -")
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Files, folders, globs or URIs: jsonl, json, csv, tsv, parquet, text, arrow; .gz .zst .bz2 .xz too.",
        ),
    ] = None,
    hub: Annotated[
        str | None, typer.Option("--hub", metavar="REPO", help="Dataset on the Hugging Face hub, instead of files.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", metavar="S", help="With --hub: split, such as train.")] = None,
    config: Annotated[str | None, typer.Option("--config", metavar="C", help="With --hub: configuration.")] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="R", help="With --hub: branch, tag or commit.")
    ] = None,
    format_: Annotated[
        str | None,
        shared.choice(
            "--format",
            "Format of the files; by default inferred from their names.",
            *("jsonl", "json", "csv", "tsv", "parquet", "text", "arrow"),
            panel=_FILES,
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            metavar="C",
            help="With csv: delimiter of cells; by default a comma. \\t is a tab.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    json_field: Annotated[
        str | None,
        typer.Option(
            "--json-field",
            metavar="FIELD",
            help="With json: field that holds the rows, if several hold lists.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    text_rows: Annotated[
        str | None,
        shared.choice(
            "--text-rows",
            "With text: a row is a line (the default), a file, or a part separated by blank lines or --text-separator.",
            *("line", "file", "separated"),
            panel=_FILES,
        ),
    ] = None,
    text_separator: Annotated[
        str | None,
        typer.Option(
            "--text-separator",
            metavar="TEXT",
            help="With text: separator of rows, such as '<|endoftext|>'. \\n is a line end.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            metavar="NAME[,NAME]...",
            help="Columns to read, instead of all: what is not needed may be of any type.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    metadata: shared.Metadata = None,
    watch: shared.Watch = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Register and import a dataset.

    Relative paths start at the current directory. Repeating the command with the same source changes nothing.

    [dim]polytok dataset add docs corpus/*.jsonl.zst[/]
    [dim]polytok dataset add books shelf/ --format text --text-rows file[/]
    [dim]polytok dataset add stories --hub roneneldan/TinyStories --split train[/]
    """
    with session.start(catalog, as_json) as run:
        record = run.client.datasets.create(
            name,
            files=files or None,
            format=format_,
            hub=hub,
            split=split,
            config=config,
            revision=revision,
            delimiter=_unescaped(delimiter),
            json_field=json_field,
            text_rows=text_rows,
            text_separator=_unescaped(text_separator),
            columns=[name for each in columns for name in each.split(",")] if columns else None,
            metadata=shared.metadata(metadata),
        )
        run.follow_if(watch, "datasets", record)


@app.command("list")
def list_(states: shared.States = None, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """List datasets, newest first."""
    with session.start(catalog, as_json) as run:
        run.show_list("datasets", run.client.datasets.list(states=states or ()))


@app.command()
def show(dataset: shared.DatasetArgument, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Show everything about a dataset."""
    with session.start(catalog, as_json) as run:
        run.show(run.client.datasets.get(dataset))


@app.command()
def watch(dataset: shared.DatasetArgument, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Follow a dataset until it is READY, failed or cancelled."""
    with session.start(catalog, as_json) as run:
        run.follow_one("datasets", dataset)


@app.command()
def cancel(dataset: shared.DatasetArgument, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Cancel the import of a dataset."""
    with session.start(catalog, as_json) as run:
        run.show(run.client.datasets.cancel(dataset))


@app.command()
def retry(
    dataset: shared.DatasetArgument,
    watch: shared.Watch = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Import a dataset again after it failed or was cancelled."""
    with session.start(catalog, as_json) as run:
        record = run.client.datasets.retry(dataset)
        run.follow_if(watch, "datasets", record)


@app.command()
def delete(
    dataset: shared.DatasetArgument,
    force: Annotated[bool, typer.Option("--force", help="Delete its tokenizations too.")] = False,
    yes: shared.Yes = False,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Delete a dataset and its files. Its source files stay."""
    with session.start(catalog, as_json) as run:
        name = run.client.datasets.get(dataset).name
        made = [each.name.rpartition("/")[2] for each in run.client.tokenizations.list(dataset)] if force else []
        others = f" with its tokenizations {', '.join(made)}" if made else ""
        run.confirm_deletion(f"{name}{others}", yes=yes)
        run.client.datasets.delete(dataset, force=force)
        run.show_deleted(dataset)


def _unescaped(text: str | None) -> str | None:
    r"""Return the text with the escapes `\n`, `\r`, `\t` and `\\` replaced."""
    return text and re.sub(r"\\[nrt\\]", lambda found: _ESCAPES[found[0]], text)
