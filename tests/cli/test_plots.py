"""Metrics become panels, and panels a picture and a drawing in the terminal."""

import builtins
import pathlib
from typing import Any

import pytest
from rich.console import Console

from polytok import errors
from polytok.cli.render import plot_data, plot_png, plot_terminal
from polytok.trainer.v1 import metrics_pb2


def trained(sae: str, step: int, loss: float, variance: float = 0.5) -> metrics_pb2.Metrics:
    figures = metrics_pb2.StepFigures(loss=loss, l0=32, explained_variance=variance)
    return metrics_pb2.Metrics(sae=sae, step=step, training=figures)


def evaluated(sae: str, step: int, counts: list[int]) -> metrics_pb2.Metrics:
    figures = metrics_pb2.EvaluationFigures(
        figures={"l0": 30, "explained_variance": 0.4, "firing_frequency.never": 1200}
    )
    figures.series["firing_frequency.log10_edges"].values[:] = [-3, -2, -1, 0]
    figures.series["firing_frequency.counts"].values[:] = counts
    return metrics_pb2.Metrics(sae=sae, step=step, evaluation=figures)


ROWS = [
    trained("b", 20, 5),
    trained("a", 10, 100),
    trained("a", 20, 10, float("nan")),
    evaluated("a", 10, [9, 9, 9]),
    evaluated("a", 20, [1, 2, 7]),
]


def test_panels_have_what_was_measured() -> None:
    loss, l0, variance, firing = plot_data.panels(ROWS)
    assert loss == plot_data.Panel(
        "loss",
        "step",
        [plot_data.Series("a", [10, 20], [100, 10]), plot_data.Series("b", [20], [5])],
        logarithmic=True,
    )
    assert [series.held_out for series in l0.series] == [False, True, False]
    # What is not finite cannot be drawn.
    assert variance.series[0] == plot_data.Series("a", [10], [0.5])
    assert variance.series[1] == plot_data.Series("a", [10, 20], [0.4, 0.4], held_out=True)
    # The last evaluation's.
    assert firing.series == [plot_data.Series("a", [-2.5, -1.5, -0.5], [1, 2, 7])]
    assert firing.note == "latents that never fire: a: 1,200"


def test_a_loss_below_zero_has_no_logarithm() -> None:
    assert not plot_data.panels([trained("a", 1, -1)])[0].logarithmic


def test_no_metrics_no_panels() -> None:
    assert plot_data.panels([]) == []


def test_a_picture_takes_the_place_of_another(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "training.png"
    path.write_bytes(b"old")
    plot_png.write(plot_data.panels(ROWS), "trainings/first", path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert len(path.read_bytes()) > 10_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.FailedPrecondition, match=r"none/x\.png.*No such file"):
        plot_png.write(plot_data.panels(ROWS), "first", tmp_path / "none" / "x.png")


def test_without_matplotlib(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(errors.FailedPrecondition, match=r"pip install 'polytok\[plot\]'"):
        plot_png.write(plot_data.panels(ROWS), "first", tmp_path / "x.png")


def lines(panels: list[plot_data.Panel], width: int = 60) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(plot_terminal.draw(panels, width))
    return captured.get().splitlines()


def test_the_terminal_shows_every_panel_within_its_width() -> None:
    shown = lines(plot_data.panels(ROWS))
    assert [line.strip() for line in shown if line.strip() in {"loss", "L0", "explained variance"}] == [
        "loss",
        "L0",
        "explained variance",
    ]
    assert all(len(line) <= 60 for line in shown)
    assert shown[-1] == "⣿ a  ⣿ b  ● held out"
    assert any("never fire" in line and "a: 1,200" in line for line in shown)


def test_lines_go_where_the_numbers_are() -> None:
    rising = [plot_data.Panel("up", "step", [plot_data.Series("a", [0, 100], [1, 2])])]
    drawing = [line.partition("│")[2] for line in lines(rising) if "│" in line]
    first = [next((index for index, dot in enumerate(line) if dot != "⠀"), None) for line in drawing]
    assert first == sorted(first, reverse=True)
    assert first[-1] == 0
    assert drawing[0].rstrip("⠀") == drawing[0]
    labels = [line.partition("│")[0].strip() for line in lines(rising) if "│" in line]
    assert (labels[0], labels[-1]) == ("2", "1")


def test_a_single_point_is_drawn() -> None:
    flat = [plot_data.Panel("one", "step", [plot_data.Series("a", [5], [0])], bars=True)]
    assert any("⠀" < dot <= "⣿" for line in lines(flat) for dot in line)
