"""`python -m benchmarks.sae [--quick]`: measure, print the tables, write `benchmarks/results/sae.json`."""

import math
import statistics
import sys
from typing import Any

import torch
from rich.console import Console

from benchmarks import report
from benchmarks.sae import contenders, live, material, pace
from services.trainer.sae import configs

ARCHITECTURES: tuple[configs.Architecture, ...] = ("topk", "batchtopk")
SEEDS = 3
AIM = 1.5
"""The project's goal, in multiples of SAELens's samples per second."""
_EVALUATED = 16_384
console = Console()


def quality(found: report.Report, scale: material.Scale, seeds: int) -> None:
    """Train both to the end from several seeds, and compare the results."""
    console.print("making synthetic activations …")
    made = material.make(scale, evaluated=_EVALUATED)
    for architecture in ARCHITECTURES:
        results: dict[str, list[dict[str, float]]] = {"ours": [], "SAELens": []}
        for seed in range(seeds):
            for who, train in (("ours", contenders.train_ours), ("SAELens", contenders.train_theirs)):
                console.print(f"{architecture}, seed {seed}: {who}")
                config = contenders.configuration(architecture, scale, seed)
                trained = train(config, scale, material.batches(made.pool, scale, seed))
                results[who].append(material.evaluate(trained.sae, made) | {"seconds": trained.seconds})
        _compare(found, architecture, scale, results)


def _compare(
    found: report.Report, architecture: str, scale: material.Scale, results: dict[str, list[dict[str, float]]]
) -> None:
    for measure in results["ours"][0]:
        means = {who: statistics.mean(row[measure] for row in rows) for who, rows in results.items()}
        for who, mean in means.items():
            found.add(f"{architecture}, trained: {measure}, {who}", mean, "s" if measure == "seconds" else "")
        if measure in ("MCC", "F1", "explained variance", "L0"):
            # Two standard errors of the difference of two means over the seeds.
            rows = [[row[measure] for row in results[who]] for who in ("ours", "SAELens")]
            spread = (
                math.sqrt(sum(statistics.variance(values) / len(values) for values in rows)) if len(rows[0]) > 1 else 0
            )
            difference = abs(means["ours"] - means["SAELens"])
            noise = max(2 * spread, 1e-6)
            found.add(f"{architecture}, trained: {measure}, difference against seed noise", difference, "", below=noise)
            found.ratios[f"{architecture}: {measure}"] = means["ours"] / means["SAELens"]
    samples = scale.steps * scale.batch * len(results["ours"])
    rates = {who: samples / sum(row["seconds"] for row in rows) for who, rows in results.items()}
    for who, rate in rates.items():
        found.add(f"{architecture}, trained: samples a second, {who}", rate, "/s")
    found.ratios[f"{architecture}, {scale.d_in} to {scale.d_sae}: samples a second"] = rates["ours"] / rates["SAELens"]


def speed(found: report.Report, scale: material.Scale) -> None:
    """Time single steps at the published benchmark's size."""
    made = material.make(scale)
    for architecture in (*ARCHITECTURES, "matryoshka_batchtopk"):
        console.print(f"{architecture}, {scale.d_in} to {scale.d_sae}: steps")
        _add_pace(found, architecture, scale, pace.measure(architecture, scale, made.pool), "")
    for architecture in ARCHITECTURES:
        for who, parts in pace.shares(architecture, scale, made.pool).items():
            for kind, share in parts.items():
                found.add(f"{architecture}, a step of {who}: {kind}", 100 * share, "%")


def gpu(found: report.Report) -> None:
    """Time steps at GPT-2 small's size on a GPU, if there is one."""
    scale = material.GPU
    made = material.make(scale)
    for architecture in ARCHITECTURES:
        for autocast in (False, True):
            how = f" {torch.cuda.get_device_name()}{', bfloat16 autocast' if autocast else ''}"
            console.print(f"{architecture}:{how}")
            timed = pace.measure(architecture, scale, made.pool, device="cuda", autocast=autocast)
            _add_pace(found, architecture, scale, timed, how)
            found.add(f"{architecture},{how}: peak memory, ours", timed.our_gib, "GiB")
            found.add(f"{architecture},{how}: peak memory, SAELens", timed.their_gib, "GiB")


def _add_pace(found: report.Report, architecture: str, scale: material.Scale, timed: pace.Pace, how: str) -> None:
    name = f"{architecture}, {scale.d_in} to {scale.d_sae}{how}"
    found.add(f"{name}: step, ours", timed.ours, "ms")
    found.add(f"{name}: step, SAELens", timed.theirs, "ms")
    found.add(f"{name}: samples a second, ours", scale.batch / timed.ours * 1e3, "/s")
    found.add(f"{name}: samples a second, SAELens", scale.batch / timed.theirs * 1e3, "/s")
    found.add(f"{name}: times SAELens's samples a second", timed.theirs / timed.ours, "", above=AIM)
    found.ratios[f"{name}: samples a second"] = timed.theirs / timed.ours


def main(arguments: list[str]) -> None:
    """Run the whole benchmark; `--quick` runs a small part of it as a test, which writes nothing."""
    quick = "--quick" in arguments
    found = report.Report("sae")
    found.baseline("sae-lens", "torch")
    trained = material.TRAINED._replace(steps=60, pool=8192) if quick else material.TRAINED
    full = material.FULL._replace(d_in=64, d_sae=256, steps=8, pool=2048, k=8) if quick else material.FULL
    quality(found, trained, 1 if quick else SEEDS)
    speed(found, full)
    console.print("live training")
    live.add(found, quick=quick)
    if torch.cuda.is_available():
        gpu(found)
        live.add(found, device="cuda")
    found.notes |= _notes(trained, full)
    found.show(console)
    if not quick:
        console.print(f"written to {found.write()}")


def _notes(trained: material.Scale, full: material.Scale) -> dict[str, Any]:
    return {
        "trained": str(trained._asdict()),
        "steps": str(full._asdict()),
        "seeds": str(SEEDS),
        "threads": str(torch.get_num_threads()),
        "data": "the same samples in the same order for both, generated beforehand; generating them is not timed",
    }


if __name__ == "__main__":
    main(sys.argv[1:])
