"""Turn a training's metrics into the curves and the histogram that `polytok train plot` draws.

panels = plot_data.panels(metrics)                 # of polytok.trainer.v1.Metrics
plot_png.write(panels, title, pathlib.Path(…))     # PNG
console.print(plot_terminal.draw(panels, width))   # in the terminal
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from polytok.trainer.v1 import metrics_pb2

_EDGES = "firing_frequency.log10_edges"
_COUNTS = "firing_frequency.counts"
_NEVER = "firing_frequency.never"


class Series(NamedTuple):
    """The points of one autoencoder; every value is finite."""

    name: str
    xs: list[float]
    ys: list[float]
    held_out: bool = False
    """Whether it was measured on held-out sequences: few points, drawn as marks."""


class Panel(NamedTuple):
    """One plot."""

    title: str
    x_label: str
    series: list[Series]
    logarithmic: bool = False
    """Whether the y axis is logarithmic; then every y is positive."""
    bars: bool = False
    """Whether the points are bars of a histogram."""
    note: str = ""
    """Information that the plot cannot show."""


def panels(metrics: Iterable[metrics_pb2.Metrics]) -> list[Panel]:
    """Return panels of loss, L0, explained variance and the last firing frequencies, without empty ones."""
    rows = sorted(metrics, key=lambda row: row.step)
    names = list(dict.fromkeys(row.sae for row in rows))
    loss = [_trained(rows, name, lambda figures: figures.loss) for name in names]
    positive = all(y > 0 for series in loss for y in series.ys)
    found = [
        Panel("loss", "step", loss, logarithmic=positive),
        Panel("L0", "step", _both(rows, names, "l0", lambda figures: figures.l0)),
        Panel(
            "explained variance",
            "step",
            _both(rows, names, "explained_variance", lambda figures: figures.explained_variance),
        ),
        _firing(rows, names),
    ]
    kept = [panel._replace(series=[series for series in panel.series if series.xs]) for panel in found]
    return [panel for panel in kept if panel.series]


def _both(
    rows: Sequence[metrics_pb2.Metrics],
    names: Sequence[str],
    figure: str,
    of: Callable[[metrics_pb2.StepFigures], float],
) -> list[Series]:
    return [
        series for name in names for series in (_trained(rows, name, of), _evaluated(rows, name, figure)) if series.xs
    ]


def _trained(rows: Sequence[metrics_pb2.Metrics], name: str, of: Callable[[metrics_pb2.StepFigures], float]) -> Series:
    points = [(row.step, of(row.training)) for row in rows if row.sae == name and row.HasField("training")]
    return _series(name, points, held_out=False)


def _evaluated(rows: Sequence[metrics_pb2.Metrics], name: str, figure: str) -> Series:
    own = [row for row in rows if row.sae == name and row.HasField("evaluation")]
    points = [(row.step, row.evaluation.figures[figure]) for row in own if figure in row.evaluation.figures]
    return _series(name, points, held_out=True)


def _series(name: str, points: Sequence[tuple[float, float]], *, held_out: bool) -> Series:
    finite = [(float(x), y) for x, y in points if math.isfinite(y)]
    return Series(name, [x for x, _ in finite], [y for _, y in finite], held_out)


def _firing(rows: Sequence[metrics_pb2.Metrics], names: Sequence[str]) -> Panel:
    last = {row.sae: row for row in rows if row.HasField("evaluation") and _COUNTS in row.evaluation.series}
    series, dead = [], []
    for name in names:
        if name not in last:
            continue
        evaluation = last[name].evaluation
        edges, counts = evaluation.series[_EDGES].values, evaluation.series[_COUNTS].values
        middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
        series.append(Series(name, middles, list(counts)))
        dead.append(f"{name}: {evaluation.figures.get(_NEVER, 0):,.0f}")
    note = f"latents that never fire: {', '.join(dead)}" if dead else ""
    return Panel("latents by firing frequency", "log10 of the frequency", series, bars=True, note=note)
