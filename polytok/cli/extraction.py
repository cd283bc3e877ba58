"""`polytok extraction`."""

from typing import Any

from polytok.cli import extracting, manual, options, session

app = manual.App(
    no_args_is_help=True,
    help="Activations of models, extracted from tokenizations. `polytok extract` makes them.",
)

Extraction = options.ExtractionArgument


@app.command("list")
def list_(
    dataset: options.DatasetFilter = "-",
    model: options.ModelFilter = None,
    states: options.States = None,
    catalog: options.Catalog = None,
    as_json: options.Json = False,
) -> None:
    """List extractions, newest first."""
    with session.start(catalog, as_json) as run:
        of = None if dataset == "-" else dataset
        run.show_list("extractions", run.client.extractions.list(of, model=model, states=states or ()))


@app.command()
def show(extraction: Extraction, catalog: options.Catalog = None, as_json: options.Json = False) -> None:
    """Show everything about an extraction: what it read, parameters, statistics of each hook."""
    with session.start(catalog, as_json) as run:
        run.show(run.client.extractions.get(extraction))


@app.command()
def watch(extraction: Extraction, catalog: options.Catalog = None, as_json: options.Json = False) -> None:
    """Follow an extraction until it is READY, failed or cancelled."""
    with session.start(catalog, as_json) as run:
        _follow(run, run.client.extractions.get(extraction))


@app.command()
def cancel(extraction: Extraction, catalog: options.Catalog = None, as_json: options.Json = False) -> None:
    """Stop an extraction. `polytok extraction retry` starts it again."""
    with session.start(catalog, as_json) as run:
        run.show(run.client.extractions.cancel(extraction))


@app.command()
def retry(
    extraction: Extraction,
    watch: options.Watch = True,
    catalog: options.Catalog = None,
    as_json: options.Json = False,
) -> None:
    """Extract again after it failed or was cancelled, from the tokenization that is READY now."""
    with session.start(catalog, as_json) as run:
        record = run.client.extractions.retry(extraction)
        if watch:
            _follow(run, record)
        else:
            run.show(record)


@app.command()
def delete(extraction: Extraction, catalog: options.Catalog = None, as_json: options.Json = False) -> None:
    """Delete an extraction and its files. A running one is stopped first."""
    with session.start(catalog, as_json) as run:
        name = run.client.extractions.get(extraction).name
        run.client.extractions.delete(name)
        run.show_deleted(name)


@app.command()
def path(extraction: Extraction, catalog: options.Catalog = None, as_json: options.Json = False) -> None:
    """Print the folder of a READY extraction, which `datasets.load_from_disk` and SAELens open.

    [dim]ls $(polytok extraction path docs-gpt2-1f2e3d4c)[/]
    """
    from polytok.client import activations  # noqa: PLC0415  imports protobuf

    with session.start(catalog, as_json) as run:
        record = run.client.extractions.get(extraction)
        folder = activations.path(record)
        run.out.result({"name": record.name, "path": folder}, folder)


@app.command()
def estimate(
    dataset: options.DatasetArgument,
    model: extracting.Model,
    hooks: extracting.Hooks,
    variant: options.Variant = "",
    context_size: extracting.ContextSize = None,
    max_sequences: extracting.MaxSequences = None,
    max_tokens: extracting.MaxTokens = None,
    batch_size: extracting.BatchSize = None,
    compute_format: extracting.ComputeFormat = None,
    storage_format: extracting.StorageFormat = None,
    special_tokens: extracting.SpecialTokens = None,
    excluded: extracting.Excluded = None,
    positions: extracting.Positions = None,
    nonfinite: extracting.Nonfinite = None,
    compiled: extracting.Compiled = None,
    catalog: options.Catalog = None,
    as_json: options.Json = False,
) -> None:
    """Tell what `polytok extract` with these options would take: bytes, memory and time. Makes nothing.

    A worker loads the model and extracts for some seconds; nothing of that stays.

    [dim]polytok extraction estimate docs -m gpt2 -H 'blocks.*.hook_resid_post' --store bfloat16[/]
    """
    from polytok.cli import estimates  # noqa: PLC0415  imports protobuf

    how = extracting.parameters(
        context_size=context_size,
        max_sequences=max_sequences,
        max_tokens=max_tokens,
        batch_size=batch_size,
        compute_format=compute_format,
        storage_format=storage_format,
        special_tokens=special_tokens,
        excluded=excluded,
        positions=positions,
        nonfinite=nonfinite,
        compiled=compiled,
    )
    with session.start(catalog, as_json) as run:
        run.out.remark("A worker tries it out; that takes some seconds.")
        estimates.show(run.out, run.client.extractions.estimate(dataset, model, hooks=hooks, variant=variant, **how))


def _follow(run: session.Session, record: Any) -> None:
    records = run.follow([lambda client: client.extractions.watch(record)])
    run.show(records[0])
    run.end(records)
