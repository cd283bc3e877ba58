"""`polytok training`."""

import pathlib
from typing import Annotated

import typer

from polytok.cli import help_format, session
from polytok.cli.options import shared

app = help_format.App(
    no_args_is_help=True,
    help="Sparse autoencoders and their trainings. `polytok train` starts one.",
)

_WIDEST = 100

Sae = Annotated[str, typer.Option("--sae", metavar="NAME", help="Autoencoder of the training; by default all.")]


@app.command("list")
def list_(states: shared.States = None, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """List trainings, newest first."""
    with session.start(catalog, as_json) as run:
        from polytok.cli.render import json_documents, training_tables  # noqa: PLC0415

        records = list(run.client.trainings.list(states=states or ()))
        shown = training_tables.trainings(run.out, records) if records else "There are no trainings."
        run.out.result({"trainings": [json_documents.record(each) for each in records]}, shown)


@app.command()
def show(training: shared.TrainingArgument, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Show everything about a training: autoencoders, source, progress and results."""
    with session.start(catalog, as_json) as run:
        run.show_training(run.client.trainings.get(training))


@app.command()
def watch(training: shared.TrainingArgument, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Follow a training and its metrics until it is READY, paused, failed or cancelled."""
    with session.start(catalog, as_json) as run:
        run.follow_training(run.client.trainings.get(training))


@app.command()
def pause(training: shared.TrainingArgument, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Stop a training at a checkpoint. `polytok training resume` continues it."""
    with session.start(catalog, as_json) as run:
        run.show_training(run.client.trainings.pause(training))


@app.command()
def resume(
    training: shared.TrainingArgument,
    watch: shared.Watch = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Continue a paused training from its checkpoint. The result is the same as without the pause."""
    with session.start(catalog, as_json) as run:
        run.follow_training_if(watch, run.client.trainings.resume(training))


@app.command()
def cancel(training: shared.TrainingArgument, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Cancel a training. Its checkpoints are removed, its metrics stay."""
    with session.start(catalog, as_json) as run:
        run.show_training(run.client.trainings.cancel(training))


@app.command()
def retry(
    training: shared.TrainingArgument,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Start at the first step, even if there is a checkpoint.")
    ] = False,
    watch: shared.Watch = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Train again after an error, from the last checkpoint; or after a cancellation, from the start."""
    with session.start(catalog, as_json) as run:
        run.follow_training_if(watch, run.client.trainings.retry(training, from_start=from_start))


@app.command()
def delete(
    training: shared.TrainingArgument,
    yes: shared.Yes = False,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Delete a training with its autoencoders, metrics and checkpoints. A running one is cancelled first."""
    with session.start(catalog, as_json) as run:
        name = run.client.trainings.get(training).name
        run.confirm_deletion(name, yes=yes)
        run.client.trainings.delete(name)
        run.show_deleted(name)


@app.command()
def path(
    training: shared.TrainingArgument, sae: Sae = "", catalog: shared.Catalog = None, as_json: shared.Json = False
) -> None:
    """Print the folder of each autoencoder of a READY training, which SAELens's `SAE.load_from_disk` opens.

    [dim]python -c "import sae_lens; print(sae_lens.SAE.load_from_disk('$(polytok training path first)'))"[/]
    """
    with session.start(catalog, as_json) as run:
        from polytok.client import trainings, watch_stream  # noqa: PLC0415

        record = watch_stream.ready(run.client.trainings.get(training))
        wanted = [sae] if sae else [result.name for result in record.results]
        found = {name: trainings.sae_path(record, name) for name in wanted}
        run.out.result({"name": record.name, "paths": found}, "\n".join(found.values()))


@app.command()
def push(
    training: shared.TrainingArgument,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository; created if it does not exist.")],
    sae: Sae = "",
    folder: Annotated[
        pathlib.Path | None,
        typer.Option("--to", metavar="FOLDER", help="Write the repository to a folder instead of uploading it."),
    ] = None,
    revision: Annotated[str, typer.Option("--revision", metavar="BRANCH", help="Branch to commit to.")] = "main",
    public: Annotated[bool, typer.Option("--public", help="Create the repository as public.")] = False,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Upload the autoencoders of a READY training to the Hugging Face hub, with a model card.

    [dim]polytok training push first me/gpt2-saes[/]
    """
    with session.start(catalog, as_json) as run:
        from polytok.client import hub_export  # noqa: PLC0415

        layout = hub_export.plan_layout(hub_export.list_exports(run.client.trainings.get(training), sae), repository)
        if folder is not None:
            hub_export.write_layout(layout, folder)
            run.out.result({"folder": str(folder), "files": sorted(layout.files)}, str(folder))
            return
        url = hub_export.push(layout, repository, revision=revision, private=not public)
        run.out.result({"commit": url, "files": sorted(layout.files)}, url)


@app.command()
def metrics(
    training: shared.TrainingArgument,
    sae: Sae = "",
    after_step: Annotated[
        int, typer.Option("--after-step", metavar="N", min=0, help="Only metrics of later steps.")
    ] = 0,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Print the metrics of a training, one row per step and autoencoder."""
    with session.start(catalog, as_json) as run:
        from polytok.cli.render import json_documents, training_tables  # noqa: PLC0415

        found = list(run.client.trainings.metrics(training, sae=sae, after_step=after_step))
        shown = training_tables.rows(run.out, found) if found else "There are no metrics."
        run.out.result({"metrics": [json_documents.record(each) for each in found]}, shown)


@app.command()
def checkpoints(
    training: shared.TrainingArgument, catalog: shared.Catalog = None, as_json: shared.Json = False
) -> None:
    """List the checkpoints from which a training can resume."""
    with session.start(catalog, as_json) as run:
        from polytok.cli.render import json_documents, tables  # noqa: PLC0415

        found = run.client.trainings.checkpoints(training)
        table = run.out.table("step#", "size#", "written", "path")
        for each in found:
            table.add_row(f"{each.step:,}", tables.size(each.size_bytes), tables.moment(each.create_time), each.path)
        shown = table if found else "There are no checkpoints."
        run.out.result({"checkpoints": [json_documents.record(each) for each in found]}, shown)


@app.command()
def plot(
    training: shared.TrainingArgument,
    sae: Sae = "",
    png: Annotated[
        pathlib.Path | None,
        typer.Option("--png", metavar="FILE", help="Write a PNG file instead of drawing in the terminal."),
    ] = None,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Plot loss, L0, explained variance and firing frequencies of a training. Alias: `polytok train plot`.

    [dim]polytok train plot first --png curves.png[/]
    """
    from polytok import errors  # noqa: PLC0415

    with session.start(catalog, as_json) as run:
        from polytok.cli.render import plot_data, plot_png, plot_terminal  # noqa: PLC0415

        record = run.client.trainings.get(training)
        panels = plot_data.panels(run.client.trainings.metrics(record, sae=sae))
        if not panels:
            raise errors.FailedPrecondition(
                f"{record.name} has no metrics yet; `polytok training watch {training}` shows its progress.",
                reason="NOT_READY",
            )
        if png is not None:
            plot_png.write(panels, record.name, png)
            run.out.result({"name": record.name, "png": str(png)}, f"Wrote {png}.")
        else:
            document = {"name": record.name, "panels": [panel.title for panel in panels]}
            run.out.result(document, plot_terminal.draw(panels, min(run.out.width, _WIDEST)))
