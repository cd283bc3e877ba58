"""Options and arguments that several commands share, and their completion."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

_COMPLETION_SECONDS = 1.0


def _completion(collection: str) -> Callable[[str], list[tuple[str, str]]]:
    """Complete names from the catalog. Whatever goes wrong completes nothing: a shell shows no errors then."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        try:
            from polytok.cli import completion  # noqa: PLC0415  imports the client

            return completion.names(collection, incomplete, _COMPLETION_SECONDS)
        except Exception:
            return []

    return complete


def _resources(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Complete the tokenizations of the dataset that stands before, as `model` or `model~variant`."""
    try:
        from polytok.cli import completion  # noqa: PLC0415  imports the client

        return completion.resources(ctx.params["dataset"], incomplete, _COMPLETION_SECONDS)
    except Exception:
        return []


def _datasets_or_tokenizations(incomplete: str) -> list[tuple[str, str]]:
    """Complete datasets, and behind a slash the tokenizations of one."""
    return _completion("tokenizations" if "/" in incomplete else "datasets")(incomplete)


def _choices(*values: str) -> Callable[[str], list[str]]:
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


datasets = _completion("datasets")
"""Completes datasets' names."""
models = _completion("models")
"""Completes models' names."""
extractions = _completion("extractions")
"""Completes extractions' names."""

Catalog = Annotated[
    str | None,
    typer.Option(
        "--catalog",
        metavar="HOST:PORT",
        envvar="POLYTOK_CATALOG_ADDRESS",
        help="The catalog. By default that of the stack which `polytok up` runs.",
        rich_help_panel="General",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document on stdout, and an error as JSON on stderr.",
        rich_help_panel="General",
    ),
]
ExtractionArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXTRACTION",
        help="The extraction's id, as `polytok extraction list` shows it.",
        autocompletion=extractions,
    ),
]
TrainingArgument = Annotated[
    str,
    typer.Argument(
        metavar="TRAINING", help="The training's id, such as `first`.", autocompletion=_completion("trainings")
    ),
]
DatasetArgument = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="The dataset's id, such as `docs`.", autocompletion=datasets),
]
ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="The model's id, such as `gpt2`.", autocompletion=models),
]
TokenizationDataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="The dataset's id; or the whole tokenization as `docs/gpt2`.",
        autocompletion=_datasets_or_tokenizations,
    ),
]
TokenizationModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="The model's id; or with the variant as `gpt2~ctx-2048`.",
        autocompletion=_resources,
    ),
]
Variant = Annotated[
    str,
    typer.Option(
        "--variant",
        metavar="SLUG",
        help="A further tokenization of the same dataset for the same model, such as `ctx-2048`.",
    ),
]
States = Annotated[
    list[str] | None,
    typer.Option("--state", metavar="STATE", help="Only those in this state, such as READY; may be repeated."),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="A note of your own to keep with it; may be repeated."),
]
Watch = Annotated[
    bool,
    typer.Option("--watch/--no-watch", help="Stay until it is READY and show its progress, or return at once."),
]
ModelOption = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A model to tokenize for; may be repeated.",
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
        help="Encode so many documents again, too, chosen at random; or all of them.",
        autocompletion=_choices("all"),
        show_default=False,
    ),
]


def documents(sample: str) -> int | Literal["all"]:
    """Return the number of documents of `--sample`."""
    if sample == "all":
        return "all"
    if not sample.isdecimal():
        raise typer.BadParameter(f"{sample!r} is neither a number of documents nor all.", param_hint="--sample")
    return int(sample)


def metadata(pairs: list[str] | None) -> dict[str, str]:
    """Return the pairs of `--metadata`."""
    found: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is no KEY=VALUE.", param_hint="--metadata")
        found[key] = value
    return found


def choice(flag: str, help_text: str, *values: str, panel: str | None = None) -> Any:
    """Return an option that takes one of a few words; the catalog's client checks which."""
    return typer.Option(
        flag,
        metavar="|".join(values),
        help=help_text,
        autocompletion=_choices(*values),
        rich_help_panel=panel,
        show_default=False,
    )
