"""Render trainings as tables, and their metrics as they arrive."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.markup import escape

from polytok.cli.render import json_documents, progress, tables
from polytok.client import resource_names, watch_stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import RenderableType
    from rich.progress import TaskID
    from rich.table import Table

    from polytok.cli.render.output import Output
    from polytok.client.trainings import Update
    from polytok.trainer.v1 import metrics_pb2, trainings_pb2

_PHASES = {
    "PHASE_FILLING": "filling the buffer",
    "PHASE_EVALUATING": "evaluating",
    "PHASE_EXPORTING": "writing the autoencoders",
}
_CAVEAT = "caveats."
_LEARNING_RATE = 0.0003
"""The learning rate of an autoencoder whose optimizer sets none (polytok/trainer/v1/saes.proto)."""
_FIGURES = ("explained_variance", "l0", "mse", "dead_latents", "cross_entropy_recovered", "kl_divergence")


def trainings(out: Output, records: Sequence[trainings_pb2.Training]) -> Table:
    """Return the list of trainings."""
    table = out.table("training", "state", "source", "autoencoders", "steps#", "explained variance#", "L0#")
    for each in records:
        variances = [result.evaluation.figures.get("explained_variance") for result in each.results]
        sparsities = [result.evaluation.figures.get("l0") for result in each.results]
        table.add_row(
            resource_names.short(each.name),
            tables.state(each),
            escape(source(each)),
            escape("\n".join(sae.name for sae in each.saes)),
            tables.count(each.total_steps),
            "\n".join(number(value) for value in variances),
            "\n".join(number(value) for value in sparsities),
        )
    return table


def doing(record: trainings_pb2.Training, step: int = 1) -> str:
    """Return what a training does other than taking steps; rounds the percentage down to a multiple of `step`."""
    phase = type(record).Phase.Name(record.phase)
    words = _PHASES.get(phase, "")
    return f"{words} {record.phase_progress // step * step:.0f} %" if phase == "PHASE_FILLING" else words


def source(record: trainings_pb2.Training) -> str:
    """Return the short name of the extraction or tokenization that a training reads."""
    return resource_names.short(record.lineage.extraction or record.lineage.tokenization)


def details(out: Output, record: trainings_pb2.Training) -> RenderableType:
    """Return all about a training."""
    pairs = [
        ("state", f"{tables.state(record)} {doing(record)}".rstrip()),
        ("steps", f"{record.step:,} of {record.total_steps:,}"),
    ]
    pairs.append(("source", escape(source(record))))
    pairs.append(("autoencoders", escape("\n".join(_described(sae) for sae in record.saes))))
    # An unset seed is 0.
    parameters = json_documents.record(record.parameters) | {"seed": record.parameters.seed}
    pairs += [(name, escape(_shown(value))) for name, value in parameters.items() if not _is_unset(value)]
    lineage = json_documents.record(record.lineage)
    versions, available = lineage.pop("versions"), lineage.pop("available_samples")
    pairs += [("passes", _reuse(record.passes, available))] if available else []
    pairs += [(name, escape(str(value))) for name, value in lineage.items() if value]
    pairs.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    pairs += [("pause", "requested")] if record.pause_requested else []
    pairs += [("error_message", f"[red]{escape(record.error_message)}[/]")] if record.error_message else []
    pairs += tables.failure(json_documents.record(record))
    pairs += [("path", escape(record.path))] if record.path else []
    facts = out.facts(record.name, [pair for pair in pairs if pair[1]])
    return Group(facts, results(out, [record])) if record.results else facts


def _reuse(passes: float, available: int) -> str:
    """Return how many times each activation is used."""
    again = ": each is used several times" if passes >= 2 else ""
    return f"{passes:.3g} over {available:,} activations of each hook{again}"


def _described(sae: Any) -> str:
    architecture = sae.WhichOneof("architecture")
    own = json_documents.record(getattr(sae, architecture))
    rate = sae.optimizer.lr if sae.optimizer.HasField("lr") else _LEARNING_RATE
    own |= {"learning rate": rate, "seed": sae.seed}
    coefficients = ", ".join(f"{name} {_shown(value)}" for name, value in own.items() if not _is_unset(value))
    widths = f"{sae.d_in:,} → {sae.d_sae:,}" if sae.d_in else f"{sae.d_sae:,} latents"
    return f"{sae.name}: {architecture} of {sae.hook}, {widths} ({coefficients})"


def results(out: Output, records: Sequence[trainings_pb2.Training]) -> RenderableType:
    """Return the results of trainings, one row per autoencoder, and the reasons of undefined figures."""
    table = out.table(
        "training", "autoencoder", "architecture", "latents#", *(f"{_heading(name)}#" for name in _FIGURES)
    )
    for record in records:
        for result in record.results:
            table.add_row(
                resource_names.short(record.name),
                escape(result.name),
                result.architecture,
                tables.count(result.d_sae),
                *(number(result.evaluation.figures.get(name)) for name in _FIGURES),
            )
    return Group(out.fitted(table), *footnotes(records, _FIGURES))


def footnotes(records: Iterable[trainings_pb2.Training], wanted: Sequence[str]) -> list[RenderableType]:
    """Return a line for each reason why shown figures are undefined, and for each caveat."""
    found: dict[str, list[str]] = {}
    for record in records:
        for result in record.results:
            evaluation = result.evaluation
            for name in wanted:
                reason = evaluation.undefined.get(name) or evaluation.notes.get(f"{_CAVEAT}{name}")
                if reason:
                    mark = tables.UNDEFINED if name in evaluation.undefined else "*"
                    found.setdefault(f"{mark} {_heading(name)}: {reason}", []).append(result.name)
    lines = (f"{line} ({', '.join(dict.fromkeys(saes))})" for line, saes in found.items())
    return [f"[dim]{escape(line)}[/]" for line in lines]


def rows(out: Output, metrics: Sequence[metrics_pb2.Metrics]) -> Table:
    """Return metrics, one per row."""
    table = out.table("autoencoder", "step#", "samples#", *_COLUMNS)
    for each in metrics:
        table.add_row(escape(each.sae), f"{each.step:,}", f"{each.samples:,}", *_cells(each))
    return out.fitted(table)


_COLUMNS = ("loss#", "explained variance#", "L0#", "dead#", "gradient#", "learning rate#")


def _cells(row: metrics_pb2.Metrics) -> list[str]:
    if row.WhichOneof("figures") == "evaluation":
        figures = row.evaluation.figures
        wanted = ("mse", "explained_variance", "l0", "dead_latents")
        return [*(number(figures.get(name)) for name in wanted), "", "held out"]
    step = row.training
    shown = (step.loss, step.explained_variance, step.l0, step.dead_latents, step.gradient_norm, step.learning_rate)
    return [number(figure) for figure in shown]


def _heading(name: str) -> str:
    words = {"l0": "L0", "mse": "MSE", "dead_latents": "dead", "cross_entropy_recovered": "CE recovered"}
    return words.get(name, name.replace("_", " ").replace("kl", "KL"))


def number(value: float | None) -> str:
    """Return a figure; NaN is undefined."""
    if value is None:
        return ""
    if math.isnan(value):
        return tables.UNDEFINED
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"


def _is_unset(value: object) -> bool:
    return value is None or value is False or value == []


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def follow(out: Output, updates: Iterator[Update]) -> trainings_pb2.Training:
    """Show a training until its state is terminal: bar and figures on a terminal, lines for milestones on a pipe."""
    last: Update | None = None
    with _display(out) as show:
        for update in updates:
            show(update)
            last = update
    assert last is not None  # a stream yields the record before it ends
    return last.training


@contextlib.contextmanager
def _display(out: Output) -> Iterator[Any]:
    if out.remarks.is_terminal:
        panel = _Panel(out)
        with Live(panel.shown(), console=out.remarks, refresh_per_second=8) as live:

            def show(update: Update) -> None:
                panel.update(update)
                live.update(panel.shown())

            yield show
    elif out.as_json:
        yield lambda _: None
    else:
        yield _Lines(out).update


class _Panel:
    """A bar and the latest figures of each autoencoder."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._last: dict[str, metrics_pb2.Metrics] = {}
        self._bar: TaskID | None = None
        self._progress = progress.bar(None)

    def update(self, update: Update) -> None:
        """Add an update."""
        record = update.training
        if self._bar is None:
            self._bar = self._progress.add_task(resource_names.short(record.name), total=100, state="")
        word = f"[{tables.colour(record)}]{watch_stream.state(record)}[/] {doing(record)}"
        self._progress.update(self._bar, completed=record.progress, state=word)
        if watch_stream.is_terminal(record):
            self._progress.stop_task(self._bar)
        self._last.update(newest(update.metrics))

    def shown(self) -> RenderableType:
        """Return the current display."""
        found = sorted(self._last.values(), key=lambda row: row.sae)
        return Group(self._progress, rows(self._out, found)) if found else self._progress


def newest(metrics: Iterable[metrics_pb2.Metrics]) -> Mapping[str, metrics_pb2.Metrics]:
    """Return the latest training figures of each autoencoder."""
    return {row.sae: row for row in metrics if row.WhichOneof("figures") == "training"}


class _Lines:
    """A line for each milestone of a training, and then one for each autoencoder."""

    def __init__(self, out: Output) -> None:
        self._console = out.remarks
        self._milestones = progress.Milestones(out.remarks)
        self._last: dict[str, metrics_pb2.Metrics] = {}

    def update(self, update: Update) -> None:
        """Print an update if it reached a milestone."""
        self._last.update(newest(update.metrics))
        if not self._milestones.show(update.training, doing(update.training, step=10)):
            return
        for row in self._last.values():
            loss, variance, sparsity, *_ = _cells(row)
            self._console.print(
                f"  {row.sae} step {row.step:,}: loss {loss}, explained variance {variance}, L0 {sparsity}"
            )
        self._last.clear()
