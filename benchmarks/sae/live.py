"""The overhead of a training: steps per second while a model computes activations, against a bare loop.

The bare loop runs the same model over the same sequences and takes the same step on each piece as it arrives: no
activation buffer, no prefetching, no metrics, no checks. Both are timed in turns, starting one step after their start,
in a process of their own that treats freed memory as the trainer's does, which benefits the bare loop too.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
import transformers

from benchmarks import report
from services.activations import activation_stream, models
from services.runtime import malloc_tuning
from services.trainer.sae import configs, reports, train
from services.trainer.sae.data import live
from services.trainer.sae.steps import factory

AIM = 0.9
"""The share of the bare loop's steps per second that the project wants to keep."""
_HOOK = "blocks.3.hook_resid_post"
_ROUNDS = 5
_SKIPPED = 10


class Size(NamedTuple):
    """Sizes of the model and the autoencoder."""

    d_model: int = 512
    d_sae: int = 4096
    context: int = 128
    batch: int = 1024
    steps: int = 50
    buffer: int = 16_384


FULL = Size()
QUICK = Size(d_model=64, d_sae=256, context=32, batch=256, steps=25, buffer=1024)
GPU = Size(d_model=768, d_sae=24_576, context=128, batch=4096, steps=120, buffer=65_536)
SIZES = {"full": FULL, "quick": QUICK, "gpu": GPU}


def add(found: report.Report, *, quick: bool = False, device: str = "cpu") -> None:
    """Measure, and add the figures to a report."""
    name = "quick" if quick else "gpu" if device != "cpu" else "full"
    size = SIZES[name]
    answer = subprocess.run(
        [sys.executable, "-m", __name__, name, device], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    rates = json.loads(answer.splitlines()[-1])
    ours, alone = statistics.median(rates["training"]), statistics.median(rates["bare"])
    where = "" if device == "cpu" else f" {torch.cuda.get_device_name()}"
    name = f"live{where}, topk, {size.d_model} to {size.d_sae}"
    found.add(f"{name}: model forward and bare step", alone, "steps/s")
    found.add(f"{name}: training", ours, "steps/s")
    found.add(f"{name}: training's part of the bare rate", ours / alone, "", above=AIM)
    found.ratios[f"{name}: steps a second over forward and bare step"] = ours / alone
    found.notes["live"] = str(size._asdict())


def measure(name: str, device: str) -> dict[str, list[float]]:
    """Return the steps per second of both, one number per round. Call it before the process has a second thread."""
    malloc_tuning.tune_malloc()
    size = SIZES[name]
    rates: dict[str, list[float]] = {"bare": [], "training": []}
    with tempfile.TemporaryDirectory() as folder:
        model = _model(pathlib.Path(folder), size, device)
        rows = _rows(size)
        for _ in range(1 if size == QUICK else _ROUNDS):
            rates["bare"].append(_bare(model, rows, size, device))
            rates["training"].append(_trained(model, rows, size, device, pathlib.Path(folder, "training")))
    return rates


def _model(folder: pathlib.Path, size: Size, device: str) -> models.LoadedModel:
    """Return a GPT-2 of four layers read by the hook and two after it; its weights do not affect the timing."""
    torch.manual_seed(0)
    transformers.logging.disable_progress_bar()
    config = transformers.GPT2Config(
        vocab_size=8192,
        n_positions=size.context,
        n_embd=size.d_model,
        n_layer=6,
        n_head=8,
        bos_token_id=0,
        eos_token_id=0,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "model")
    return models.load(folder / "model", device=device, dtype="float32" if device == "cpu" else "bfloat16")


def _rows(size: Size) -> Any:
    count = max(64, (size.steps + 8) * size.batch // size.context // 4)
    drawn = np.random.default_rng(0).integers(0, 8192, (count, size.context))
    return datasets.Dataset.from_dict({"input_ids": drawn.tolist()})


def _plan(size: Size, device: str) -> configs.TrainingPlan:
    sae = configs.SaeConfig(architecture="topk", d_in=size.d_model, d_sae=size.d_sae, k=32)
    return configs.TrainingPlan(
        saes=(configs.PlannedSae(name="sae", hook=_HOOK, sae=sae),),
        total_samples=size.steps * size.batch,
        batch_size=size.batch,
        buffer_samples=size.buffer,
        log_every=_SKIPPED,
        checkpoint_every=10**9,
        evaluation_sequences=1,
        device=device,
        autocast=device != "cpu",
    )


def _settings(size: Size) -> activation_stream.StreamSettings:
    return activation_stream.StreamSettings(hooks=(_HOOK,), batch_tokens=size.batch)


def _bare(model: models.LoadedModel, rows: Any, size: Size, device: str) -> float:
    """Yield the steps per second of forward pass and step."""
    planned = _plan(size, device)
    step = factory.create_step(planned.saes[0], planned)
    began, taken = 0.0, 0
    while taken < size.steps:
        for piece in activation_stream.ActivationStream(model, rows, _settings(size)).pieces():
            if taken == _SKIPPED:
                _wait(device)
                began = time.perf_counter()
            step(piece.values[_HOOK].clone())
            taken += 1
            if taken == size.steps:
                break
    _wait(device)
    return (size.steps - _SKIPPED) / (time.perf_counter() - began)


def _trained(model: models.LoadedModel, rows: Any, size: Size, device: str, folder: pathlib.Path) -> float:
    """Yield the steps per second of a training, including metrics, once its buffer is full."""
    seen_steps: list[tuple[int, float]] = []

    def on_rows(found: list[reports.Row]) -> None:
        if isinstance(found[0], reports.MetricsRow):
            seen_steps.append((found[0].step, time.perf_counter()))

    train.train(
        _plan(size, device),
        folder,
        open_data=lambda _: live.LiveDataset(model, rows, _settings(size), seed=0, held_out_rows=1),
        on_rows=on_rows,
        resume=False,
    )
    (first, began), (last, ended) = seen_steps[0], seen_steps[-1]
    return (last - first) / (ended - began)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
