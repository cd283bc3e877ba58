"""The loop: what it tells, how it stops and goes on, and what a user reads when something is wrong."""

import dataclasses
import json
import pathlib
import re
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from polytok import errors
from services.trainer.sae import architectures, configs, progress_reporter, reports
from services.trainer.sae import train as training
from services.trainer.sae.checkpoints import Checkpoints
from services.trainer.sae.data.dataset import Block
from tests.support import messages
from tests.trainer import gaussian


def train(planned: configs.TrainingPlan, folder: pathlib.Path, data: Any = None, **options: Any) -> reports.Result:
    opened = data or gaussian.Gaussian(hooks=planned.hooks)
    return training.train(planned, folder, open_data=lambda _: opened, **options)


def weights(result: reports.Result) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(folder / "sae_weights.safetensors") for name, folder in result.exports.items()}


def same(one: dict[str, dict[str, torch.Tensor]], other: dict[str, dict[str, torch.Tensor]]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name][key]) for name, tensors in one.items() for key, tensor in tensors.items()
    )


class StopAt:
    """Is set once a step was reported."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._event = threading.Event()

    def is_set(self) -> bool:
        return self._event.is_set()

    def on_rows(self, rows: list[reports.Row]) -> None:
        if rows[0].step >= self._step:
            self._event.set()


def test_it_trains_evaluates_and_exports(tmp_path: pathlib.Path) -> None:
    rows: list[reports.Row] = []
    reported: list[reports.Progress] = []
    planned = gaussian.training(gaussian.sae("topk"), gaussian.sae("standard"), evaluate_every=20)
    result = train(planned, tmp_path, on_rows=rows.extend, report=reported.append)
    assert (result.finished, result.step, result.samples) == (True, 40, 1280)
    metrics = [row for row in rows if isinstance(row, reports.MetricsRow)]
    assert [(row.sae, row.step) for row in metrics] == [
        (f"sae{index}", step) for step in range(5, 41, 5) for index in range(2)
    ]
    assert metrics[-1].loss < metrics[1].loss
    assert metrics[-2].l0 == 4
    assert metrics[-2].samples == 1280
    assert metrics[-1].losses.keys() == {"mse_loss", "l1_loss"}
    assert metrics[-1].coefficients == {"l1": 0.1}
    assert metrics[-1].learning_rate == 1e-3
    evaluated = [row for row in rows if isinstance(row, reports.EvaluationRow)]
    assert [(row.sae, row.step) for row in evaluated] == [("sae0", 20), ("sae1", 20), ("sae0", 40), ("sae1", 40)]
    assert result.evaluations == evaluated[2:]
    assert evaluated[2].figures["explained_variance"] > evaluated[0].figures["explained_variance"]
    assert evaluated[2].figures["l0"] == 4
    phases = [each.phase for each in reported]
    assert (phases[0], phases[-1]) == ("preparing", "exporting")
    assert [each.step for each in reported] == sorted(each.step for each in reported)
    assert {each.checkpoint_step for each in reported} >= {0, 40}
    for name, folder in result.exports.items():
        assert folder == tmp_path / "saes" / name
        opened = architectures.import_sae_lens().SAE.load_from_disk(folder)
        assert opened.cfg.d_sae == 32


@pytest.mark.parametrize("held_out", [4, 0])
def test_exported_firing_frequencies(held_out: int, tmp_path: pathlib.Path) -> None:
    # A window of training that has just begun again.
    planned = gaussian.training(gaussian.sae("batchtopk"), feature_sampling_window=39, evaluation_sequences=held_out)
    data = gaussian.Gaussian()
    folder = train(planned, tmp_path, data).exports["sae0"]
    opened = architectures.import_sae_lens().SAE.load_from_disk(folder)
    said = opened.cfg.metadata
    assert said.sparsity_source == ("held out" if held_out else "trained on")
    if held_out:
        vectors = torch.cat([block[gaussian.HOOK] for block in data.held_out()])
        fired = (opened.encode(vectors) != 0).double()
        assert said.sparsity_samples == len(vectors)
        assert said.l0 == pytest.approx(float(fired.sum(-1).mean()))
        assert said.num_dead_features == int((fired.sum(0) == 0).sum())
        sparsity = load_file(folder / "sparsity.safetensors")["sparsity"]
        assert torch.allclose(10**sparsity, fired.mean(0).float(), atol=1e-6)
    else:
        assert said.sparsity_samples == planned.buffer_samples
        assert 0 < said.l0 < 32


def test_hooks_train_independently(tmp_path: pathlib.Path) -> None:
    other = "blocks.1.hook_mlp_out"
    first = gaussian.training()
    both = configs.TrainingPlan.from_dict(
        first.to_dict()
        | {"saes": [first.saes[0].to_dict(), first.saes[0].to_dict() | {"name": "second", "hook": other}]}
    )
    alone = train(first, tmp_path / "alone")
    together = train(both, tmp_path / "both")
    assert torch.equal(weights(alone)["sae0"]["W_dec"], weights(together)["sae0"]["W_dec"])
    assert not torch.equal(weights(together)["second"]["W_dec"], weights(together)["sae0"]["W_dec"])


def test_resumed_weights_are_the_same(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training(gaussian.sae("topk"), gaussian.sae("jumprelu"))
    whole = train(planned, tmp_path / "whole")
    stop = StopAt(15)
    stopped = train(planned, tmp_path / "stopped", stop=stop, on_rows=stop.on_rows)
    assert (stopped.finished, stopped.step, stopped.exports) == (False, 15, {})
    assert [each.step for each in Checkpoints(tmp_path / "stopped" / "checkpoints").list()] == [10, 15]
    reported: list[reports.Progress] = []
    rows: list[reports.Row] = []
    finished = train(planned, tmp_path / "stopped", report=reported.append, on_rows=rows.extend)
    (resumed,) = [each.message for each in reported if each.message]
    messages.check_names(resumed, "checkpoint", "step 15")
    assert rows[0].step == 20
    assert same(weights(whole), weights(finished))
    assert finished.seconds > stopped.seconds


def test_no_evaluation_sequences(tmp_path: pathlib.Path) -> None:
    rows: list[reports.Row] = []
    result = train(gaussian.training(evaluation_sequences=0, evaluate_every=10), tmp_path, on_rows=rows.extend)
    assert result.evaluations == []
    assert all(isinstance(row, reports.MetricsRow) for row in rows)
    assert result.exports.keys() == {"sae0"}


def test_finished_training_run_again(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training()
    first = train(planned, tmp_path)
    rows: list[reports.Row] = []
    again = train(planned, tmp_path, on_rows=rows.extend)
    assert [type(row) for row in rows] == [reports.EvaluationRow]
    assert same(weights(first), weights(again))
    assert first.evaluations == again.evaluations


def test_without_resuming(tmp_path: pathlib.Path) -> None:
    train(gaussian.training(), tmp_path)
    rows: list[reports.Row] = []
    train(gaussian.training(), tmp_path, resume=False, on_rows=rows.extend)
    assert rows[0].step == 5


@pytest.mark.parametrize("ahead", [0, 2])
def test_filling_reports_progress(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    monkeypatch.setattr(progress_reporter, "_SECONDS", 0.0)
    reported: list[reports.Progress] = []
    normalized = gaussian.sae(normalize_activations="expected_average_only_in")
    train(gaussian.training(normalized), tmp_path, report=reported.append, ahead=ahead)
    phases = [each.phase for each in reported]
    first = phases.index("training")
    filling = [(each.filled, each.to_fill) for each in reported[:first] if each.phase == "filling"]
    # Four batches for the normalisation, then the buffer.
    assert filling == sorted(filling)
    assert len(filling) > 5
    assert {total for _, total in filling} == {4 * 32 + 256}
    assert filling[-1][0] == 4 * 32 + 256
    assert "filling" not in phases[first:]


@pytest.mark.parametrize("ahead", [0, 2])
def test_stop_while_filling(tmp_path: pathlib.Path, ahead: int) -> None:
    planned, stop = gaussian.training(), threading.Event()

    def stopping(progress: reports.Progress) -> None:
        if progress.phase == "filling":
            stop.set()

    stopped = train(planned, tmp_path / "a", report=stopping, stop=stop, ahead=ahead)
    assert (stopped.finished, stopped.step) == (False, 0)
    assert not any((tmp_path / "a" / training.CHECKPOINTS).glob("step-*"))
    assert same(weights(train(planned, tmp_path / "a")), weights(train(planned, tmp_path / "b")))


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_reading_ahead_changes_no_weights(tmp_path: pathlib.Path, ahead: int) -> None:
    planned = gaussian.training()
    assert same(weights(train(planned, tmp_path / "a", ahead=2)), weights(train(planned, tmp_path / "b", ahead=ahead)))


def test_a_damaged_checkpoint_is_skipped_and_reported(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training()
    whole = train(planned, tmp_path)
    damaged = tmp_path / "checkpoints" / "step-000000000040" / "sae-00000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    reported: list[reports.Progress] = []
    again = train(planned, tmp_path, report=reported.append)
    (message,) = [each.message for each in reported if each.message]
    messages.check_names(message, "step 30", "step-000000000040/sae-00000.safetensors", "sha256")
    assert same(weights(whole), weights(again))


def test_data_reuse_is_recorded(tmp_path: pathlib.Path) -> None:
    result = train(gaussian.training(), tmp_path)
    assert (result.samples, result.available_samples) == (32 * 40, 640)
    metadata = json.loads((result.exports["sae0"] / "cfg.json").read_text())["metadata"]
    assert {name: metadata[name] for name in ("training_samples", "available_samples", "passes")} == {
        "training_samples": 32 * 40,
        "available_samples": 640,
        "passes": 2.0,
    }


def test_another_plan_is_refused(tmp_path: pathlib.Path) -> None:
    train(gaussian.training(), tmp_path)
    with pytest.raises(errors.FailedPrecondition) as raised:
        train(gaussian.training(seed=1, buffer_samples=512), tmp_path)
    messages.check_names(raised.value.message, "buffer_samples", "seed")
    assert "batch_size" not in raised.value.message


def test_reporting_intervals_may_change(tmp_path: pathlib.Path) -> None:
    train(gaussian.training(), tmp_path)
    assert train(gaussian.training(log_every=3, checkpoint_every=7, evaluate_every=2), tmp_path).finished


@pytest.mark.parametrize("poisoned", [8, 30])
def test_nan_loss(tmp_path: pathlib.Path, poisoned: int) -> None:
    with pytest.raises(errors.FailedPrecondition) as raised:
        train(gaussian.training(), tmp_path, gaussian.Gaussian(poison_at=poisoned))
    assert raised.value.reason == "NOT_FINITE"
    assert not raised.value.retryable
    kept = Checkpoints(tmp_path / "checkpoints").list()
    last = kept[-1].step if kept else 0
    assert raised.value.metadata == {"sae": "sae0", "checkpoint_step": str(last)}
    step, *others = map(int, re.findall(r"step (\d+)", raised.value.message))
    assert others == [each.step for each in kept[-1:]]
    assert all(each.step < step for each in kept)
    hints = "optimizer.lr", 0.001, "optimizer.lr_warm_up_steps", "sae.normalize_activations", "expected_average_only_in"
    messages.check_names(raised.value.message, "sae0", "NaN", f"{step * 32:,} samples", *hints)
    for each in kept:
        tensors = load_file(tmp_path / "checkpoints" / each.name / "sae-00000.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_divergence_keeps_finite_checkpoints_only(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training(gaussian.sae("standard"), checkpoint_every=1)
    wild = dataclasses.replace(planned.saes[0], optimizer=configs.OptimizerConfig(lr=1e38, gradient_clip=None))
    with pytest.raises(errors.FailedPrecondition) as raised:
        train(dataclasses.replace(planned, saes=(wild,)), tmp_path)
    assert raised.value.reason == "NOT_FINITE"
    messages.check_names(raised.value.message, "sae0", "NaN", "optimizer.gradient_clip 1")
    for each in Checkpoints(tmp_path / "checkpoints").list():
        tensors = load_file(tmp_path / "checkpoints" / each.name / "sae-00000.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


@contextmanager
def no_file_longer_than(num_bytes: int) -> Iterator[None]:
    """Write fail behind this length, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_full_disk(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training()
    stop = StopAt(10)
    train(planned, tmp_path, stop=stop, on_rows=stop.on_rows)
    with no_file_longer_than(8192), pytest.raises(errors.ResourceExhausted) as raised:
        train(planned, tmp_path)
    assert raised.value.reason == "DISK_FULL"
    messages.check_names(raised.value.message, "step 20", tmp_path / "checkpoints", "step 10")
    assert same(weights(train(planned, tmp_path / "whole")), weights(train(planned, tmp_path)))


class Hungry(gaussian.Gaussian):
    """Its model needs more memory than any machine has."""

    def held_out(self) -> Iterator[Block]:
        torch.empty(1 << 60)
        yield {}


def test_out_of_memory(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ResourceExhausted) as raised:
        train(gaussian.training(), tmp_path, Hungry())
    assert not raised.value.retryable
    messages.check_names(raised.value.message, "cpu", "16.0 KiB", 256, 32, "4.0 KiB")
    # What takes most is named first.
    fields = re.findall("d_sae|buffer_samples|batch_size", raised.value.message)
    assert fields == ["d_sae", "buffer_samples", "batch_size"]


def test_source_errors_reach_the_caller(tmp_path: pathlib.Path) -> None:
    class Failing(gaussian.GaussianSource):
        def read(self) -> Block:
            if self.position()["block"] == 20:
                raise errors.DataLoss("shard 3 does not hold what was written.")
            return super().read()

    class Data(gaussian.Gaussian):
        def source(self, rank: int, size: int) -> gaussian.GaussianSource:
            return Failing(rank)

    with pytest.raises(errors.DataLoss, match="shard 3"):
        train(gaussian.training(), tmp_path, Data())


@pytest.mark.parametrize(
    ("hook", "d_in", "field", "names"),
    [
        ("blocks.9.hook_mlp_out", 16, "saes.hook", ["blocks.9.hook_mlp_out", gaussian.HOOK]),
        (gaussian.HOOK, 12, "sae.d_in", [12, gaussian.HOOK, 16]),
    ],
)
def test_a_plan_that_does_not_fit_the_data(
    tmp_path: pathlib.Path, hook: str, d_in: int, field: str, names: list[object]
) -> None:
    with pytest.raises(errors.InvalidArgument) as raised:
        train(gaussian.training(gaussian.sae(d_in=d_in), hook=hook), tmp_path, gaussian.Gaussian())
    assert [each.field for each in raised.value.violations] == [field]
    messages.check_names(raised.value.message, *names)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a\nb"])
def test_invalid_name(tmp_path: pathlib.Path, name: str) -> None:
    planned = gaussian.training()
    named = dataclasses.replace(planned, saes=(dataclasses.replace(planned.saes[0], name=name),))
    with pytest.raises(errors.InvalidArgument) as raised:
        train(named, tmp_path)
    assert [each.field for each in raised.value.violations] == ["saes.name"]
    messages.check_names(raised.value.message, repr(name))
