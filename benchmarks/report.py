"""The results of a benchmark: printed as a table, written as JSON."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

RESULTS = pathlib.Path(__file__).parent / "results"


@dataclasses.dataclass
class Figure:
    """One measured number, its unit, and the project's bound for it, if any."""

    name: str
    value: float
    unit: str
    aim: str = ""
    met: bool | None = None


@dataclasses.dataclass
class Report:
    """The figures of one run."""

    name: str
    figures: list[Figure] = dataclasses.field(default_factory=list)
    ratios: dict[str, float] = dataclasses.field(default_factory=dict)
    baselines: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(
        self, name: str, value: float, unit: str, *, below: float | None = None, above: float | None = None
    ) -> None:
        """Add a figure; `below` or `above` is its bound."""
        if below is not None:
            self.figures.append(Figure(name, value, unit, f"< {below:g}", value < below))
        elif above is not None:
            self.figures.append(Figure(name, value, unit, f"> {above:g}", value > above))
        else:
            self.figures.append(Figure(name, value, unit))

    def baseline(self, *packages: str) -> None:
        """Record the versions of a baseline."""
        self.baselines |= {package: importlib.metadata.version(package) for package in packages}

    def show(self, console: Console) -> None:
        """Print the figures and ratios."""
        table = Table(title=self.name, title_justify="left")
        for column, justify in (
            ("figure", "left"),
            ("value", "right"),
            ("unit", "left"),
            ("aim", "right"),
            ("", "left"),
        ):
            table.add_column(column, justify="right" if justify == "right" else "left")
        for figure in self.figures:
            mark = "" if figure.met is None else "[green]met[/]" if figure.met else "[red]missed[/]"
            table.add_row(figure.name, f"{figure.value:,.2f}", figure.unit, figure.aim, mark)
        for name, ratio in self.ratios.items():
            table.add_row(f"ratio: {name}", f"{ratio:,.3f}", "ours / theirs", "", "")
        console.print(table)

    def write(self) -> pathlib.Path:
        """Write `benchmarks/results/{name}.json`."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        document = {
            "figures": {f.name: {"value": f.value, "unit": f.unit, "aim": f.aim, "met": f.met} for f in self.figures},
            "ratios": self.ratios,
            "baselines": self.baselines,
            "conditions": conditions() | self.notes,
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
        return path


def conditions() -> dict[str, str]:
    """Return the machine and the date."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": model,
        "memory_gib": f"{int(memory) / 2**20:.1f}",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _lines(path: str) -> Iterable[str]:
    return pathlib.Path(path).read_text().splitlines()


def quantile(values: list[float], q: float) -> float:
    """Return the q-quantile by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
