"""Draw panels into a PNG file with matplotlib; needs no display."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from typing import TYPE_CHECKING, Any

from polytok import errors

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Sequence

    from polytok.cli.render.plot_data import Panel, Series

_INCHES = (6.4, 4.0)
_DOTS = 120


def write(panels: Sequence[Panel], title: str, path: pathlib.Path) -> None:
    """Draw the panels into one picture, replacing an existing file.

    Raises `errors.FailedPrecondition` if matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise errors.FailedPrecondition(
            "Drawing a PNG needs the package `matplotlib`. Install it with `pip install 'polytok[plot]'`, or leave out "
            "--png to draw in the terminal."
        ) from error
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(_INCHES[0] * columns, _INCHES[1] * lines), dpi=_DOTS, layout="constrained")
    figure.suptitle(title)
    colours = {name: f"C{index}" for index, name in enumerate(_names(panels))}
    for index, panel in enumerate(panels):
        _draw(figure.add_subplot(lines, columns, index + 1), panel, colours)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            canvas: Any = FigureCanvasAgg(figure)
            canvas.print_png(file)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        cause = error.strerror or os.strerror(error.errno or 0)
        raise errors.FailedPrecondition(f"{path} cannot be written ({cause}). Choose another file.") from error


def _names(panels: Sequence[Panel]) -> list[str]:
    return list(dict.fromkeys(series.name for panel in panels for series in panel.series))


def _draw(axes: Any, panel: Panel, colours: dict[str, str]) -> None:
    for series in panel.series:
        _draw_series(axes, panel, series, colours[series.name])
    if panel.logarithmic:
        axes.set_yscale("log")
    axes.set_title(panel.title)
    axes.set_xlabel(f"{panel.x_label}\n{panel.note}" if panel.note else panel.x_label)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")


def _draw_series(axes: Any, panel: Panel, series: Series, colour: str) -> None:
    if panel.bars:
        axes.step(series.xs, series.ys, where="mid", color=colour, label=series.name)
        axes.fill_between(series.xs, series.ys, step="mid", color=colour, alpha=0.2)
    elif series.held_out:
        axes.plot(series.xs, series.ys, "o", color=colour, label=f"{series.name}, held out")
    else:
        axes.plot(series.xs, series.ys, "-", color=colour, label=series.name)
