"""Options and arguments of several commands, and their completion."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

COMPLETION_SECONDS = 1.0

Completions = list[tuple[str, str]]
"""Names with their states."""


def names(collection: str, incomplete: str, *parent: str) -> Completions:
    """Return the names in a collection that begin with `incomplete`; nothing on errors, which a shell would not show.

    `parent` is the dataset of tokenizations that are named `model` or `model~variant`.
    """
    try:
        from polytok.client import Client, resource_names, watch_stream  # noqa: PLC0415  slow to import

        with Client(timeout=COMPLETION_SECONDS, patience=0) as client:
            records = list(getattr(client, collection).list(*parent))
        short = [record.name.rpartition("/")[2] if parent else resource_names.short(record.name) for record in records]
        found = zip(short, map(watch_stream.state, records), strict=True)
        return [(name, state) for name, state in found if name.startswith(incomplete)]
    except Exception:
        return []


def _completion(collection: str) -> Callable[[str], Completions]:
    return lambda incomplete: names(collection, incomplete)


def _resources(ctx: typer.Context, incomplete: str) -> Completions:
    """Complete the tokenizations of the dataset before, as `model` or `model~variant`."""
    return names("tokenizations", incomplete, ctx.params["dataset"]) if "dataset" in ctx.params else []


def _datasets_or_tokenizations(incomplete: str) -> Completions:
    """Complete datasets, or tokenizations after a slash."""
    return _completion("tokenizations" if "/" in incomplete else "datasets")(incomplete)


def _choices(*values: str) -> Callable[[str], list[str]]:
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


datasets = _completion("datasets")
"""Completes names of datasets."""
models = _completion("models")
"""Completes names of models."""
extractions = _completion("extractions")
"""Completes names of extractions."""

Catalog = Annotated[
    str | None,
    typer.Option(
        "--catalog",
        metavar="HOST:PORT",
        envvar="POLYTOK_CATALOG_ADDRESS",
        help="Catalog address. By default that of the stack started with `polytok up`.",
        rich_help_panel="General",
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Delete without asking; on a terminal, the command asks otherwise.")
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document on stdout, and errors as JSON on stderr.",
        rich_help_panel="General",
    ),
]
ExtractionArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXTRACTION",
        help="Id of the extraction, as shown by `polytok extraction list`.",
        autocompletion=extractions,
    ),
]
TrainingArgument = Annotated[
    str,
    typer.Argument(
        metavar="TRAINING", help="Id of the training, such as `first`.", autocompletion=_completion("trainings")
    ),
]
DatasetArgument = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="Id of the dataset, such as `docs`.", autocompletion=datasets),
]
ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Id of the model, such as `gpt2`.", autocompletion=models),
]
TokenizationDataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="Id of the dataset, or the tokenization as `docs/gpt2`.",
        autocompletion=_datasets_or_tokenizations,
    ),
]
TokenizationModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Id of the model, or with the variant as `gpt2~ctx-2048`.",
        autocompletion=_resources,
    ),
]
Variant = Annotated[
    str,
    typer.Option(
        "--variant",
        metavar="SLUG",
        help="Name of another tokenization of the same dataset and model, such as `ctx-2048`.",
    ),
]
States = Annotated[
    list[str] | None,
    typer.Option("--state", metavar="STATE", help="Only those in this state, such as READY; repeatable."),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="Metadata to store with it; repeatable."),
]
Watch = Annotated[
    bool,
    typer.Option("--watch/--no-watch", help="Wait until it is READY and show its progress, or return immediately."),
]
ModelOption = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Model to tokenize for; repeatable.",
        autocompletion=models,
    ),
]
ModelFilter = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="Only those for this model.", autocompletion=models),
]
DatasetFilter = Annotated[
    str,
    typer.Argument(
        metavar="[DATASET]",
        help="Only those of this dataset.",
        autocompletion=datasets,
        show_default=False,
    ),
]
Sample = Annotated[
    str,
    typer.Option(
        "--sample",
        metavar="N|all",
        help="Also re-encode N random documents, or all, and compare the ids.",
        autocompletion=_choices("all"),
        show_default=False,
    ),
]


def documents(sample: str) -> int | Literal["all"]:
    """Return the value of `--sample`."""
    if sample == "all":
        return "all"
    if not sample.isdecimal():
        raise typer.BadParameter(f"{sample!r} is neither a number nor all.", param_hint="--sample")
    return int(sample)


def metadata(pairs: list[str] | None) -> dict[str, str]:
    """Return the pairs of `--metadata`."""
    found: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE.", param_hint="--metadata")
        found[key] = value
    return found


def choice(flag: str, help_text: str, *values: str, panel: str | None = None) -> Any:
    """Return an option with a fixed set of values, which the client validates."""
    return typer.Option(
        flag,
        metavar="|".join(values),
        help=help_text,
        autocompletion=_choices(*values),
        rich_help_panel=panel,
        show_default=False,
    )
