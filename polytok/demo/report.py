"""The final report of the demo: tables of the results, and decoded rows."""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from polytok.catalog.v1 import tokenizations_pb2
from polytok.cli.render import json_documents, tables, training_tables
from polytok.cli.render.output import Output
from polytok.client import resource_names, watch_stream
from polytok.demo.sample_rows import Row
from polytok.extractor.v1 import extractions_pb2
from polytok.trainer.v1 import trainings_pb2

_HEADINGS = (
    "dataset",
    "model",
    "status",
    "sequences#",
    "tokens#",
    "avg length#",
    "vocabulary#",
    "files#",
    "seconds#",
    "tokens/s#",
)
_EXTRACTED = ("extraction", "status", "hook", "activations#", "size#", "mean norm#", "dead#", "seconds#", "tokens/s#")
_TRAINED = (
    "training",
    "status",
    "autoencoder",
    "latents#",
    "steps#",
    "explained variance#",
    "L0#",
    "dead#",
    "CE of the model#",
    "CE recovered#",
    "seconds#",
)
_FIGURES = ("explained_variance", "l0", "dead_latents", "cross_entropy_clean", "cross_entropy_recovered")
_IDS = 10
_CHARACTERS = 160


def show(
    out: Output,
    tokenizations: Sequence[tokenizations_pb2.Tokenization],
    extractions: Sequence[extractions_pb2.Extraction],
    trainings: Sequence[trainings_pb2.Training],
    rows: Sequence[Row],
    made: Sequence[str],
) -> None:
    """Print the report."""
    document = {
        "made": list(made),
        "tokenizations": [_document(each) for each in tokenizations],
        "extractions": [json_documents.record(each) for each in extractions],
        "trainings": [json_documents.record(each) for each in trainings],
        "rows": [row._asdict() for row in rows],
    }
    made_of = _upright_if_narrow(out, _HEADINGS, [_cells(each) for each in tokenizations])
    extracted = _upright_if_narrow(out, _EXTRACTED, [_extracted(each) for each in extractions])
    trained = _upright_if_narrow(out, _TRAINED, [_trained(each) for each in trainings])
    notes: list[RenderableType] = [*_chance(trainings), *training_tables.footnotes(trainings, _FIGURES)]
    out.result(
        document,
        Group(Text(), made_of, Text(), *_rows(rows), Text(), extracted, Text(), trained, *notes, *_closing(made)),
    )


def seconds(record: tokenizations_pb2.Tokenization | trainings_pb2.Training) -> float:
    """Return the time from the first worker's start to publication."""
    return float((record.complete_time.ToDatetime() - record.start_time.ToDatetime()).total_seconds())


def _document(tokenization: tokenizations_pb2.Tokenization) -> dict[str, Any]:
    took = seconds(tokenization)
    speed = tokenization.statistics.num_tokens / took if took > 0 else None
    return json_documents.record(tokenization) | {"seconds": took, "tokens_per_second": speed}


def _upright_if_narrow(out: Output, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """Return a table with a row for each record, or a column on a narrow terminal."""
    table = out.table(*headings)
    for row in rows:
        table.add_row(*row)
    if out.has_room_for(table):
        return table
    upright = out.table("", *("#" for _ in rows))
    upright.show_header = False
    for heading, *cells in zip(headings, *rows, strict=True):
        upright.add_row(f"[bold]{heading.removesuffix('#')}[/]", *cells)
    return upright


def _trained(training: trainings_pb2.Training) -> list[str]:
    (result,) = training.results
    figures = result.evaluation.figures
    return [
        resource_names.short(training.name),
        f"[{tables.colour(training)}]{watch_stream.state(training)}[/]",
        f"{training.saes[0].WhichOneof('architecture')} of {result.hook}",
        f"{result.d_sae:,}",
        f"{training.total_steps:,}",
        *(training_tables.number(figures.get(name)) for name in _FIGURES),
        f"{seconds(training):.1f}",
    ]


def _chance(trainings: Sequence[trainings_pb2.Training]) -> list[Text]:
    """Return how much each model knows: what its cross-entropy lacks of a uniform guess's."""
    found = []
    for training in trainings:
        for result in training.results:
            figures = result.evaluation.figures
            clean, chance = (figures.get(f"cross_entropy_{name}", math.nan) for name in ("clean", "chance"))
            if math.isfinite(clean):
                name = resource_names.short(training.name)
                text = f"{name}: the model's cross-entropy (CE) is {clean:.2f} nats a token, "
                found.append(Text(f"{text}{chance - clean:.2f} below a uniform guess's {chance:.2f}.", style="dim"))
    return found


def _extracted(extraction: extractions_pb2.Extraction) -> list[str]:
    statistics = extraction.statistics
    (hook,) = statistics.hooks
    return [
        resource_names.short(extraction.name),
        f"[{tables.colour(extraction)}]{watch_stream.state(extraction)}[/]",
        hook.hook,
        f"{statistics.num_tokens:,} x {hook.width:,}",
        tables.size(statistics.size_bytes),
        f"{hook.mean_norm:.2f}",
        f"{hook.num_dead_dimensions:,}",
        f"{statistics.seconds:.1f}",
        tables.rate(statistics.num_tokens, statistics.seconds),
    ]


def _cells(tokenization: tokenizations_pb2.Tokenization) -> list[str]:
    statistics = tokenization.statistics
    return [
        resource_names.short(tokenization.dataset),
        resource_names.short(tokenization.model),
        f"[{tables.colour(tokenization)}]{watch_stream.state(tokenization)}[/]",
        f"{statistics.num_sequences:,}",
        f"{statistics.num_tokens:,}",
        f"{statistics.avg_seq_length:,.1f}" if statistics.num_sequences else tables.UNDEFINED,
        f"{tokenization.vocab_size:,}",
        f"{statistics.num_files:,}",
        f"{seconds(tokenization):.1f}",
        tables.rate(statistics.num_tokens, seconds(tokenization)),
    ]


def _rows(rows: Sequence[Row]) -> list[RenderableType]:
    """Return the ids and the decoded text of each row."""
    shown: list[RenderableType] = [Text("Rows read back with datasets.load_from_disk and decoded:", style="bold")]
    for row in rows:
        ids = " ".join(str(number) for number in row.ids[:_IDS])
        more = " …" if len(row.ids) > _IDS else ""
        text = " ".join(row.text.split())
        text = text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + "…"
        shown.append(
            Text.from_markup(
                f"  [cyan]{row.model}[/] row {row.number:,}: {len(row.ids):,} tokens [dim]{ids}{more}[/]\n"
                f"    [italic]{escape(text)}[/]"
            )
        )
    return shown


def _closing(made: Sequence[str]) -> list[RenderableType]:
    what = f"Made {len(made)}: {', '.join(made)}." if made else "Everything existed already; nothing was created."
    path = "python -c \"import polytok; print(polytok.Client().load('python-library', 'gpt2-demo'))\""
    return [
        Text(),
        Text(what),
        Text.from_markup(f"Next: [bold]polytok up[/] keeps the stack running; then\n  [dim]{escape(path)}[/]"),
    ]
