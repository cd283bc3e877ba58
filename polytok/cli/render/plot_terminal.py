"""Draw panels in the terminal: eight dots per character, one colour per autoencoder."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polytok.cli.render.plot_data import Panel

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_BLANK = 0x2800
# The dots of a character, two columns by four lines (Unicode 16, block Braille Patterns).
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_LINES = 12
_MARGIN = 10
_NARROWEST = 20


def draw(panels: Sequence[Panel], width: int, lines: int = _LINES) -> Text:
    """Draw panels one below the other, `width` characters wide; each is `lines` high without title and axis."""
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
    text = Text()
    for panel in panels:
        _append(text, panel, colours, max(_NARROWEST, width - _MARGIN - 1), lines)
    for name in names:
        text.append("⣿ ", colours[name]).append(f"{name}  ")
    if any(series.held_out for panel in panels for series in panel.series):
        text.append("● held out", "bold")
    return text


class _Scale:
    """Maps values to dots."""

    def __init__(self, values: Sequence[float], dots: int, *, logarithmic: bool, from_zero: bool) -> None:
        self._logarithmic = logarithmic
        shown = [self._of(value) for value in values]
        self._low, self._high = min(shown), max(shown)
        if from_zero:
            self._low = min(0.0, self._low)
        if self._low == self._high:
            self._low, self._high = self._low - 0.5, self._high + 0.5
        self._dots = dots

    def _of(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value

    def dot(self, value: float) -> int:
        share = (self._of(value) - self._low) / (self._high - self._low)
        return round(share * (self._dots - 1))

    def value(self, share: float) -> float:
        found = self._low + share * (self._high - self._low)
        return 10**found if self._logarithmic else found


def _append(text: Text, panel: Panel, colours: dict[str, str], columns: int, lines: int) -> None:
    xs = [x for series in panel.series for x in series.xs]
    ys = [y for series in panel.series for y in series.ys]
    across = _Scale(xs, 2 * columns, logarithmic=False, from_zero=False)
    up = _Scale(ys, 4 * lines, logarithmic=panel.logarithmic, from_zero=panel.bars)
    dots = [[0] * columns for _ in range(lines)]
    cells: list[list[str]] = [[""] * columns for _ in range(lines)]
    marks: dict[tuple[int, int], str] = {}
    for series in panel.series:
        points = [(across.dot(x), up.dot(y)) for x, y in zip(series.xs, series.ys, strict=True)]
        for x, y in points if series.held_out else _joined(points, bars=panel.bars):
            line, column = lines - 1 - y // 4, x // 2
            dots[line][column] |= _BITS[3 - y % 4][x % 2]
            cells[line][column] = colours[series.name]
            if series.held_out:
                marks[line, column] = colours[series.name]
    text.append(f"{'':{_MARGIN}} {panel.title}\n", "bold")
    for line in range(lines):
        share = {0: 1.0, lines // 2: 0.5, lines - 1: 0.0}.get(line)
        label = "" if share is None else _number(up.value(share))
        text.append(f"{label:>{_MARGIN}}", "dim").append("│")
        for column in range(columns):
            mark = marks.get((line, column))
            shown = chr(_BLANK + dots[line][column]) if mark is None else "●"
            text.append(shown, mark or cells[line][column] or None)
        text.append("\n")
    text.append(f"{'':{_MARGIN}}└{'─' * columns}\n")
    low, high = _number(across.value(0)), _number(across.value(1))
    middle = panel.x_label.center(max(0, columns - len(low) - len(high)))
    text.append(f"{'':{_MARGIN + 1}}{low}{middle}{high}\n", "dim")
    text.append(f"{'':{_MARGIN + 1}}{panel.note}\n\n" if panel.note else "\n", "dim")


def _joined(points: Sequence[tuple[int, int]], *, bars: bool) -> Iterator[tuple[int, int]]:
    """Yield the dots of lines between points, or of the outlines of bars, which leave others visible."""
    yield from points
    for (x1, y1), (x2, y2) in itertools.pairwise(points):
        if bars:
            yield from ((x, y1) for x in range(x1, x2))
            yield from ((x2, y) for y in range(min(y1, y2), max(y1, y2)))
            continue
        steps = max(abs(x2 - x1), abs(y2 - y1), 1)
        yield from (
            (x1 + round((x2 - x1) * step / steps), y1 + round((y2 - y1) * step / steps)) for step in range(1, steps)
        )


def _number(value: float) -> str:
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return f"{value:,.0f}" if value == round(value) and abs(value) >= 10 else f"{value:.3g}"
    return f"{value:.1e}"
