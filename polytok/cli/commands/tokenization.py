"""`polytok tokenization`."""

from typing import Annotated

import typer

from polytok.cli import exit_codes, help_format, session
from polytok.cli.options import shared

app = help_format.App(
    no_args_is_help=True,
    help="Datasets as token ids for models. `polytok tokenize` creates one. Name it by DATASET and MODEL, or as "
    "DATASET/MODEL.",
)


@app.command("list")
def list_(
    dataset: shared.DatasetFilter = "-",
    model: shared.ModelFilter = None,
    states: shared.States = None,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """List tokenizations, newest first."""
    with session.start(catalog, as_json) as run:
        run.show_list("tokenizations", run.client.tokenizations.list(dataset, model=model, states=states or ()))


@app.command()
def show(
    dataset: shared.TokenizationDataset,
    model: shared.TokenizationModel = None,
    variant: shared.Variant = "",
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Show everything about a tokenization: parameters, statistics, files."""
    with session.start(catalog, as_json) as run:
        run.show(run.client.tokenizations.get(dataset, model, variant=variant))


@app.command()
def watch(
    dataset: shared.TokenizationDataset,
    model: shared.TokenizationModel = None,
    variant: shared.Variant = "",
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Follow a tokenization until it is READY, failed or cancelled."""
    with session.start(catalog, as_json) as run:
        run.follow_one("tokenizations", run.client.tokenizations.get(dataset, model, variant=variant))


@app.command()
def cancel(
    dataset: shared.TokenizationDataset,
    model: shared.TokenizationModel = None,
    variant: shared.Variant = "",
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Cancel a tokenization. `polytok tokenization retry` starts it again."""
    with session.start(catalog, as_json) as run:
        run.show(run.client.tokenizations.cancel(dataset, model, variant=variant))


@app.command()
def retry(
    dataset: shared.TokenizationDataset,
    model: shared.TokenizationModel = None,
    variant: shared.Variant = "",
    watch: shared.Watch = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Tokenize again after it failed or was cancelled."""
    with session.start(catalog, as_json) as run:
        record = run.client.tokenizations.retry(dataset, model, variant=variant)
        run.follow_if(watch, "tokenizations", record)


@app.command()
def delete(
    dataset: shared.TokenizationDataset,
    model: shared.TokenizationModel = None,
    variant: shared.Variant = "",
    yes: shared.Yes = False,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Delete a tokenization and its files. A running one is cancelled first."""
    with session.start(catalog, as_json) as run:
        name = run.client.tokenizations.get(dataset, model, variant=variant).name
        run.confirm_deletion(name, yes=yes)
        run.client.tokenizations.delete(name)
        run.show_deleted(name)


@app.command()
def path(
    dataset: shared.TokenizationDataset,
    model: shared.TokenizationModel = None,
    variant: shared.Variant = "",
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Print the folder of a READY tokenization, which `datasets.load_from_disk` opens.

    [dim]ls $(polytok tokenization path docs gpt2)[/]
    """
    with session.start(catalog, as_json) as run:
        found = run.client.tokenizations.get(dataset, model, variant=variant)
        record = run.client.tokenizations.resolve(found.dataset, found.model, variant=found.variant)
        run.out.result({"name": record.name, "path": record.tokenized_path}, record.tokenized_path)


@app.command()
def verify(
    dataset: shared.TokenizationDataset,
    model: shared.TokenizationModel = None,
    variant: shared.Variant = "",
    sample: shared.Sample = "0",
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Compare the files of a READY tokenization with their checksums.

    With --sample, also re-encodes random documents, or all, with the reference tokenizer and compares the ids.
    Changes nothing. The exit code is 1 if anything is wrong.

    [dim]polytok tokenization verify docs gpt2 --sample 1000[/]
    """
    from polytok.cli.render import verification_report  # noqa: PLC0415  imports protobuf

    with session.start(catalog, as_json) as run:
        result = verification_report.follow(
            run.out,
            run.client.tokenizers.verifying(dataset, model, variant=variant, sample=shared.documents(sample)),
        )
        verification_report.show(run.out, result)
    if result.findings:
        raise typer.Exit(exit_codes.FAILED)


@app.command()
def repair(
    dataset: shared.TokenizationDataset,
    model: shared.TokenizationModel = None,
    variant: shared.Variant = "",
    checksums_only: Annotated[
        bool,
        typer.Option("--checksums-only", help="Compare only checksums, not ids with the reference tokenizer."),
    ] = False,
    watch: shared.Watch = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Rebuild missing or corrupt files of a READY tokenization.

    Compares every file with its checksum, and all ids with the reference tokenizer, which takes as long as tokenizing
    with it. Rebuilt files are identical to the original, or the output says how they differ.
    Tokenizations that share the files are repaired with them.

    [dim]polytok tokenization verify docs gpt2 || polytok tokenization repair docs gpt2[/]
    """
    from polytok.cli.render import repair_report  # noqa: PLC0415  imports protobuf

    with session.start(catalog, as_json) as run:
        record = run.client.tokenizations.repair(dataset, model, variant=variant, checksums_only=checksums_only)
        if watch:
            repair_report.follow(run.out, run.client.tokenizations.repairing(record))
            record = run.client.tokenizations.get(record)
        done = repair_report.show(run.out, record)
    if watch and not done:
        raise typer.Exit(exit_codes.FAILED)
