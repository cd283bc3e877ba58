"""The time of a step at full width, and how SAELens spends it."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.sae import contenders, material
from services.trainer.sae import configs

_WARM_UP = 3
_TURN = 4
"""Steps per turn; the first turn of each is not counted."""
_KINDS = {
    "dense products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "choice of latents": ("aten::topk", "aten::sort", "aten::kthvalue", "aten::nonzero"),
    "Adam and clipping": ("foreach", "adam", "addcmul", "addcdiv", "lerp", "sqrt"),
    "sparse products": ("embedding_bag",),
}


class Pace(NamedTuple):
    """Milliseconds of a step, medians, and peak GPU memory (0 on a processor)."""

    ours: float
    theirs: float
    our_gib: float = 0.0
    their_gib: float = 0.0


def measure(
    architecture: configs.Architecture,
    scale: material.Scale,
    pool: torch.Tensor,
    *,
    device: str = "cpu",
    autocast: bool = False,
) -> Pace:
    """Time steps of both in turns, so that other load on the machine affects both."""
    config = contenders.configuration(architecture, scale, 0)
    data = material.batches(pool.to(device), scale, 0)
    ours = contenders.our_step(config, scale, device, autocast=autocast)
    theirs = contenders.their_trainer(config, scale, data, device, autocast=autocast)
    times: tuple[list[float], list[float]] = ([], [])
    peaks = [0.0, 0.0]
    for turn in range(max(1, scale.steps // _TURN)):
        for which, step in enumerate((ours, lambda batch: _their_step(theirs, batch))):
            found, peak = _timed(step, data, _TURN, device)
            times[which].extend(found if turn else [])
            peaks[which] = max(peaks[which], peak)
    return Pace(statistics.median(times[0]), statistics.median(times[1]), *peaks)


def shares(
    architecture: configs.Architecture, scale: material.Scale, pool: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Return the share of a step's time by kind of work, for SAELens and for us; on one core, so that nothing waits."""
    config = contenders.configuration(architecture, scale, 0)
    data = material.batches(pool, scale, 0)
    ours = contenders.our_step(config, scale, "cpu")
    theirs = contenders.their_trainer(config, scale, data, "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "SAELens": _profiled(lambda batch: _their_step(theirs, batch), data),
            "ours": _profiled(ours, data),
        }
    finally:
        torch.set_num_threads(threads)


def _their_step(trainer: Any, batch: torch.Tensor) -> None:
    trainer.step(batch)
    trainer.n_training_steps += 1


def _timed(step: Callable[[torch.Tensor], Any], data: Any, count: int, device: str) -> tuple[list[float], float]:
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    found = []
    for _ in range(count):
        batch = next(data)
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        step(batch)
        if cuda:
            torch.cuda.synchronize()
        found.append((time.perf_counter() - started) * 1e3)
    return found, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def _profiled(step: Callable[[torch.Tensor], Any], data: Any) -> dict[str, float]:
    for _ in range(_WARM_UP):
        step(next(data))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(_WARM_UP):
            step(next(data))
    times: dict[str, float] = {}
    for event in profiled.key_averages():
        kind = next(
            (kind for kind, names in _KINDS.items() if any(name in event.key for name in names)),
            "element by element, and the rest",
        )
        times[kind] = times.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    return {kind: time / total for kind, time in sorted(times.items(), key=lambda item: -item[1])}
