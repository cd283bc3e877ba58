"""Measures extraction. `make bench-extract` runs it and writes `benchmarks/results/extract.json`.

The runs of a round follow one another, so that what else the machine does meets all of them; ratios are taken within a
round, and the median round counts.
"""

import contextlib
import functools
import hashlib
import io
import os
import pathlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import datasets
import numpy as np
import torch
from rich.console import Console

from benchmarks import report
from benchmarks.extract import material, runs
from benchmarks.extract.material import Case
from services.activations.statistics import Statistics

console = Console()
_Given = TypeVar("_Given")
_ROUNDS = 5
_ENOUGH_ROUNDS = 3
_SECONDS = 180
"""No round begins after so many."""
_LOAD = 1.5
BARE, OURS, HOOKED, PROXY, DISK = (
    "bare forward",
    "ours, to disk",
    "SAELens, HookedTransformer",
    "SAELens, AutoModelForCausalLM",
    "plain write",
)


@dataclass
class Measured:
    """Seconds of each run, by the clock and of the processors, round by round."""

    clock: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, theirs: str, ours: str = OURS, *, processor: bool = False) -> float:
        """How many times faster ours was: the median round's."""
        seconds = self.processor if processor else self.clock
        return statistics.median(their / our for their, our in zip(seconds[theirs], seconds[ours], strict=True))


def main() -> None:
    """Runs the cases that this machine can, and writes the report."""
    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    found = report.Report("extract")
    found.baseline("torch", "transformers", "sae-lens", "transformer-lens", "datasets", "pyarrow")
    found.notes["load_before"] = f"{os.getloadavg()[0]:.1f}"
    if os.getloadavg()[0] > _LOAD:
        console.print(f"[yellow]The load average is over {_LOAD}: other work slows all sides, and not alike.[/]")
    cases = [material.CPU, *([material.GPU] if torch.cuda.is_available() else [])]
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="polytok-bench-") as folder:
            _measure(case, pathlib.Path(folder), found)
    if not torch.cuda.is_available():
        found.notes["GPU"] = "none here: not measured"
    found.notes["load_after"] = f"{os.getloadavg()[0]:.1f}"
    found.show(console)
    console.print(f"Written to {found.write()}")


def _measure(case: Case, work: pathlib.Path, found: report.Report) -> None:
    with console.status(f"{case.name}: making model and tokens"):
        folder, dataset = material.write_model(case, work / "model"), material.tokens(case)
        made: dict[str, Callable[[], float]] = {
            BARE: runs.bare(case, folder, dataset),
            OURS: runs.ours(case, folder, dataset, work / "ours"),
        }
        if case.device == "cpu":
            for name, kind in ((HOOKED, "HookedTransformer"), (PROXY, "AutoModelForCausalLM")):
                made[name] = _quiet(functools.partial(runs.saelens, case, folder, dataset, work / kind, kind))()
        made[OURS]()
        size = sum(path.stat().st_size for path in (work / "ours").iterdir())
        made[DISK] = runs.disk(size, work / "plain")
    measured = _rounds(case, made)
    if HOOKED in made:
        _check_same(case, work)
    _tell(case, measured, size, found)
    _tell_steps(case, size, measured, found)


def _rounds(case: Case, made: dict[str, Callable[[], float]]) -> Measured:
    measured = Measured({name: [] for name in made}, {name: [] for name in made})
    began = time.monotonic()
    # The round before the first is for warming up.
    for number in range(_ROUNDS + 1):
        if number > _ENOUGH_ROUNDS and time.monotonic() - began > _SECONDS:
            break
        for name, run in made.items():
            with console.status(f"{case.name}: {f'round {number}' if number else 'warming up'}, {name}"):
                before = time.process_time()
                seconds = _quiet(run)()
            if number:
                measured.clock[name].append(seconds)
                measured.processor[name].append(time.process_time() - before)
    return measured


def _quiet(run: Callable[[], _Given]) -> Callable[[], _Given]:
    def quiet() -> _Given:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return run()

    return quiet


def _check_same(case: Case, work: pathlib.Path) -> None:
    """Everybody stored the same numbers, or what was compared is not the same work."""
    file = next((work / "ours").glob("*.arrow"))
    ours = datasets.Dataset.from_file(str(file)).with_format("numpy")[: case.batch][case.hooks[-1]]
    for kind, column in (
        ("HookedTransformer", case.hooks[-1]),
        ("AutoModelForCausalLM", f"transformer.h.{case.depth - 1}"),
    ):
        theirs = datasets.load_from_disk(str(work / kind)).with_format("numpy")[: case.batch][column]
        if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
            raise RuntimeError(f"{kind} stored other activations than ours.")


def _tell(case: Case, measured: Measured, size: int, found: report.Report) -> None:
    speeds = {name: case.tokens / statistics.median(seconds) for name, seconds in measured.clock.items()}
    aim = 0.9 if case.device == "cpu" else 0.85
    for name, speed in speeds.items():
        if name == DISK:
            continue
        above = aim * speeds[BARE] if name == OURS else None
        found.add(f"{case.name}: {name}", speed, "tokens/s", above=above)
    ours, plain = (size / 1e6 / statistics.median(measured.clock[name]) for name in (OURS, DISK))
    found.add(f"{case.name}: ours writes", ours, "MB/s")
    found.add(f"{case.name}: the disk takes, write and fsync", plain, "MB/s")
    for name in (BARE, HOOKED, PROXY):
        if name in speeds:
            found.ratios[f"{case.name}: to {name}"] = measured.ratio(name)
            if case.device == "cpu":
                found.ratios[f"{case.name}: to {name}, processor time"] = measured.ratio(name, processor=True)
    found.ratios[f"{case.name}: bytes a second to what the disk takes"] = ours / plain
    found.notes[f"{case.name} case"] = (
        f"GPT-2 with random weights, width {case.width}, {case.layers} layers; {len(case.hooks)} hook(s), the last "
        f"{case.hooks[-1]}; {case.rows} rows of {case.context} random tokens in batches of {case.batch}; {case.dtype}; "
        f"{material.threads()} cores; median of {len(measured.clock[OURS])} interleaved rounds"
    )


def _tell_steps(case: Case, size: int, measured: Measured, found: report.Report) -> None:
    """What is done beside the forward pass, each alone and in one thread."""
    values = torch.randn(case.batch * case.context, case.width)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gathered = Statistics(case.width)
    times = case.tokens * len(case.hooks) // len(values)
    steps = {
        "statistics": times * _seconds(lambda: gathered.add(values)),
        "sha256": _seconds(lambda: hashlib.sha256(bytes(size)).hexdigest()),
        "plain write and fsync": statistics.median(measured.clock[DISK]),
    }
    torch.set_num_threads(threads)
    alone = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in steps.items())
    whole = statistics.median(measured.clock[OURS])
    found.notes[f"{case.name} steps"] = f"of {whole:.2f} s; each alone, in one thread: {alone}"


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
