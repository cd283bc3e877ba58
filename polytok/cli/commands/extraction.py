"""`polytok extraction`."""

from typing import Any

from polytok.cli import help_format, session
from polytok.cli.options import extraction_options, shared

app = help_format.App(
    no_args_is_help=True,
    help="Activations of models, extracted from tokenizations. `polytok extract` creates one.",
)

Extraction = shared.ExtractionArgument


@app.command("list")
def list_(
    dataset: shared.DatasetFilter = "-",
    model: shared.ModelFilter = None,
    states: shared.States = None,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """List extractions, newest first."""
    with session.start(catalog, as_json) as run:
        of = None if dataset == "-" else dataset
        run.show_list("extractions", run.client.extractions.list(of, model=model, states=states or ()))


@app.command()
def show(extraction: Extraction, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Show everything about an extraction: inputs, parameters, statistics of each hook."""
    with session.start(catalog, as_json) as run:
        run.show(run.client.extractions.get(extraction))


@app.command()
def watch(extraction: Extraction, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Follow an extraction until it is READY, failed or cancelled."""
    with session.start(catalog, as_json) as run:
        run.follow_one("extractions", run.client.extractions.get(extraction))


@app.command()
def cancel(extraction: Extraction, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Cancel an extraction. `polytok extraction retry` starts it again."""
    with session.start(catalog, as_json) as run:
        run.show(run.client.extractions.cancel(extraction))


@app.command()
def retry(
    extraction: Extraction,
    watch: shared.Watch = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Extract again after it failed or was cancelled, from the current tokenization."""
    with session.start(catalog, as_json) as run:
        record = run.client.extractions.retry(extraction)
        run.follow_if(watch, "extractions", record)


@app.command()
def delete(
    extraction: Extraction, yes: shared.Yes = False, catalog: shared.Catalog = None, as_json: shared.Json = False
) -> None:
    """Delete an extraction and its files. A running one is cancelled first."""
    with session.start(catalog, as_json) as run:
        name = run.client.extractions.get(extraction).name
        run.confirm_deletion(name, yes=yes)
        run.client.extractions.delete(name)
        run.show_deleted(name)


@app.command()
def path(extraction: Extraction, catalog: shared.Catalog = None, as_json: shared.Json = False) -> None:
    """Print the folder of a READY extraction, which `datasets.load_from_disk` and SAELens open.

    [dim]ls $(polytok extraction path docs-gpt2-1f2e3d4c)[/]
    """
    from polytok.client import files  # noqa: PLC0415  imports protobuf

    with session.start(catalog, as_json) as run:
        record = run.client.extractions.get(extraction)
        folder = files.extraction_path(record)
        run.out.result({"name": record.name, "path": folder}, folder)


@app.command()
@extraction_options.with_parameters
def estimate(
    dataset: shared.DatasetArgument,
    model: extraction_options.Model,
    hooks: extraction_options.Hooks,
    variant: shared.Variant = "",
    *,
    how: dict[str, Any],
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Estimate the size, memory and time of `polytok extract` with these options, without creating anything.

    A worker loads the model and runs a trial for some seconds.

    [dim]polytok extraction estimate docs -m gpt2 -H 'blocks.*.hook_resid_post' --store bfloat16[/]
    """
    from polytok.cli.render import tables  # noqa: PLC0415  imports protobuf

    with session.start(catalog, as_json) as run:
        run.out.remark("A worker runs a trial, which takes some seconds.")
        tables.show_estimate(
            run.out, run.client.extractions.estimate(dataset, model, hooks=hooks, variant=variant, **how)
        )
