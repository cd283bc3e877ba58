"""Measure extraction. `make bench-extract` runs it and writes `benchmarks/results/extract.json`.

Every side is a process of its own. The runs of a round follow one another, so that other load on the machine affects
all of them; ratios are taken within a round, and the median round counts.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from rich.console import Console

from benchmarks import report
from benchmarks.extract import disk, material
from benchmarks.extract.contestant import BARE, COMPILED, HOOKED, OURS, PROXY, Contestant
from benchmarks.extract.material import Case
from services.activations import models
from services.activations.statistics import ActivationStatistics

console = Console()
_ROUNDS = 5
_ENOUGH_ROUNDS = 3
_SECONDS = 150
"""No round begins after this many seconds, once there are enough."""
_LOAD = 1.5


@dataclass
class Measured:
    """Seconds of each run, of the clock and of the processors, round by round."""

    clock: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, theirs: str, ours: str = OURS, *, processor: bool = False) -> float:
        """Return how many times faster ours was, in the median round."""
        seconds = self.processor if processor else self.clock
        return statistics.median(their / our for their, our in zip(seconds[theirs], seconds[ours], strict=True))


def main(rows: str = "") -> None:
    """Run the cases that this machine can, and write the report; with a number of rows, only show it."""
    datasets.disable_progress_bars()
    found = report.Report("extract")
    found.baseline("torch", "transformers", "sae-lens", "transformer-lens", "datasets", "pyarrow")
    found.notes["load_before"] = f"{os.getloadavg()[0]:.1f}"
    if os.getloadavg()[0] > _LOAD:
        console.print(f"[yellow]The load average is over {_LOAD}: other work slows the sides down, and not equally.[/]")
    cases = [material.CPU, *([material.GPU] if torch.cuda.is_available() else [])]
    for each in cases:
        case = dataclasses.replace(each, rows=int(rows or each.rows))
        with tempfile.TemporaryDirectory(prefix="polytok-bench-") as folder:
            _measure(case, pathlib.Path(folder), found)
    if not torch.cuda.is_available():
        found.notes["GPU"] = "no GPU: not measured"
    found.notes["load_after"] = f"{os.getloadavg()[0]:.1f}"
    found.show(console)
    if not rows:
        console.print(f"Written to {found.write()}")


def _measure(case: Case, work: pathlib.Path, found: report.Report) -> None:
    with console.status(f"{case.name}: making the model"):
        material.write_model(case, work / "model")
    sides = [BARE, OURS, COMPILED, *([HOOKED, PROXY] if case.device == "cpu" else [])]
    with contextlib.ExitStack() as stack:
        contestants = {}
        for side in sides:
            with console.status(f"{case.name}: loading, {side}"):
                contestants[side] = stack.enter_context(Contestant(side, case, work))
        measured = _rounds(case, contestants)
    if HOOKED in sides:
        _check_same(case, work)
    size = sum(path.stat().st_size for path in (work / "ours").iterdir())
    plain = statistics.median(disk.write(size, work / "plain") for _ in range(_ENOUGH_ROUNDS))
    _tell(case, measured, size, plain, found)
    _tell_steps(case, size, measured, plain, found)


def _rounds(case: Case, contestants: dict[str, Contestant]) -> Measured:
    measured = Measured({name: [] for name in contestants}, {name: [] for name in contestants})
    began = time.monotonic()
    # Round 0 is a warm-up.
    for number in range(_ROUNDS + 1):
        if number > _ENOUGH_ROUNDS and time.monotonic() - began > _SECONDS:
            break
        for name, contestant in contestants.items():
            with console.status(f"{case.name}: {f'round {number}' if number else 'warming up'}, {name}"):
                clock, processor = contestant.run()
            if number:
                measured.clock[name].append(clock)
                measured.processor[name].append(processor)
    return measured


def _check_same(case: Case, work: pathlib.Path) -> None:
    """Raise unless all sides stored the same numbers: otherwise the comparison is void."""
    ours, compiled = (_stored(case, work / folder) for folder in ("ours", "compiled"))
    if not np.allclose(ours, compiled, rtol=1e-4, atol=1e-5):
        raise RuntimeError("The compiled model stored other activations than the uncompiled one.")
    for kind, column in (
        ("HookedTransformer", case.hooks[-1]),
        ("AutoModelForCausalLM", f"transformer.h.{case.depth - 1}"),
    ):
        theirs = datasets.load_from_disk(str(work / kind)).with_format("numpy")[: case.batch][column]
        if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
            raise RuntimeError(f"{kind} stored other activations than ours.")


def _stored(case: Case, folder: pathlib.Path) -> Any:
    """Return the first batch's activations of the last hook."""
    file = next(folder.glob("*.arrow"))
    return datasets.Dataset.from_file(str(file)).with_format("numpy")[: case.batch][case.hooks[-1]]


def _tell(case: Case, measured: Measured, size: int, plain: float, found: report.Report) -> None:
    speeds = {name: case.tokens / statistics.median(seconds) for name, seconds in measured.clock.items()}
    aim = 0.9 if case.device == "cpu" else 0.85
    for name, speed in speeds.items():
        above = aim * speeds[BARE] if name == OURS else None
        found.add(f"{case.name}: {name}", speed, "tokens/s", above=above)
    ours, takes = size / 1e6 / statistics.median(measured.clock[OURS]), size / 1e6 / plain
    found.add(f"{case.name}: ours writes", ours, "MB/s")
    found.add(f"{case.name}: the disk takes, write and fsync", takes, "MB/s")
    for name in (BARE, HOOKED, PROXY):
        for side, label in ((OURS, ""), (COMPILED, "compiled, ")):
            if name not in speeds:
                continue
            found.ratios[f"{case.name}: {label}to {name}"] = measured.ratio(name, side)
            if case.device == "cpu":
                found.ratios[f"{case.name}: {label}to {name}, processor time"] = measured.ratio(
                    name, side, processor=True
                )
    found.ratios[f"{case.name}: bytes a second to what the disk takes"] = ours / takes
    found.notes[f"{case.name} case"] = (
        f"GPT-2 with random weights, width {case.width}, {case.layers} layers; {len(case.hooks)} hook(s), the last "
        f"{case.hooks[-1]}; {case.rows} rows of {case.context} random tokens in batches of {case.batch}; {case.dtype}; "
        f"{material.threads()} cores; median of {len(measured.clock[OURS])} interleaved rounds"
    )


def _tell_steps(case: Case, size: int, measured: Measured, plain: float, found: report.Report) -> None:
    """Show the work besides the forward pass, each part alone and in one thread."""
    values = torch.randn(case.batch * case.context, case.width).to(case.device, models.DTYPES[case.dtype])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gathered = ActivationStatistics(case.width)
    # One-time costs on a GPU, such as loading kernels, are not timed. (`add` ends when its sums are on the CPU.)
    gathered.add(values)
    times = case.tokens * len(case.hooks) // len(values)
    steps = {
        "statistics": times * _seconds(lambda: gathered.add(values)),
        "sha256": _seconds(lambda: _hash(size)),
        "plain write and fsync": plain,
    }
    torch.set_num_threads(threads)
    alone = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in steps.items())
    whole = statistics.median(measured.clock[OURS])
    found.notes[f"{case.name} steps"] = f"of {whole:.2f} s; each alone, in one thread: {alone}"


def _hash(size: int) -> None:
    """Hash a number of bytes, of which only a part is in memory at once."""
    block, digest = bytes(1 << 24), hashlib.sha256()
    for first in range(0, size, len(block)):
        digest.update(block[: size - first])


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(*sys.argv[1:])
