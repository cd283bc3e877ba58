"""`polytok model`."""

from typing import Annotated

import typer

from polytok.cli import help_format, session
from polytok.cli.options import shared

app = help_format.App(no_args_is_help=True, help="Models to tokenize datasets for.")


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Id of the new model: lower-case letters, digits, . _ -")],
    repository: Annotated[
        str,
        typer.Argument(metavar="PATH_OR_REPO", help="Folder in the Hugging Face layout, or owner/name on the hub."),
    ],
    tokenizer: Annotated[
        str,
        typer.Option("--tokenizer", metavar="PATH_OR_REPO", help="Source of the tokenizer, if it is another."),
    ] = "",
    revision: Annotated[str, typer.Option("--revision", metavar="R", help="Branch, tag or commit on the hub.")] = "",
    metadata: shared.Metadata = None,
    watch: shared.Watch = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Register a model and read its tokenizer.

    [dim]polytok model add gpt2 openai-community/gpt2[/]
    [dim]polytok model add mine ./checkpoints/mine --tokenizer openai-community/gpt2[/]
    """
    with session.start(catalog, as_json) as run:
        record = run.client.models.create(
            name, repository, tokenizer=tokenizer, revision=revision, metadata=shared.metadata(metadata)
        )
        run.follow_if(watch, "models", record)


@app.command("list")
def list_(states: shared.States = None, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """List models, newest first."""
    with session.start(catalog, as_json) as run:
        run.show_list("models", run.client.models.list(states=states or ()))


@app.command()
def show(model: shared.ModelArgument, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Show everything about a model."""
    with session.start(catalog, as_json) as run:
        run.show(run.client.models.get(model))


@app.command()
def watch(model: shared.ModelArgument, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Follow a model until it is READY or failed."""
    with session.start(catalog, as_json) as run:
        run.follow_one("models", model)


@app.command()
def retry(
    model: shared.ModelArgument,
    watch: shared.Watch = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Read the tokenizer of a failed model again."""
    with session.start(catalog, as_json) as run:
        record = run.client.models.retry(model)
        run.follow_if(watch, "models", record)


@app.command()
def delete(
    model: shared.ModelArgument,
    force: Annotated[bool, typer.Option("--force", help="Delete its tokenizations too.")] = False,
    yes: shared.Yes = False,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Delete a model. Its source files stay."""
    with session.start(catalog, as_json) as run:
        name = run.client.models.get(model).name
        run.confirm_deletion(f"{name} with its tokenizations" if force else name, yes=yes)
        run.client.models.delete(model, force=force)
        run.show_deleted(model)
