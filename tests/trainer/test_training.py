"""The loop: what it tells, how it stops and goes on, and what a user reads when something is wrong."""

import dataclasses
import json
import pathlib
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
from services.trainer import course, lens, plan, reports, training
from services.trainer.checkpoints import Checkpoints
from services.trainer.data.streams import Block
from tests.trainer import gaussian


def train(planned: plan.TrainingPlan, folder: pathlib.Path, data: Any = None, **options: Any) -> reports.Result:
    opened = data or gaussian.Gaussian(hooks=planned.hooks)
    return training.train(planned, folder, open_data=lambda _: opened, **options)


def weights(result: reports.Result) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(folder / "sae_weights.safetensors") for name, folder in result.exports.items()}


def same(one: dict[str, dict[str, torch.Tensor]], other: dict[str, dict[str, torch.Tensor]]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name][key]) for name, tensors in one.items() for key, tensor in tensors.items()
    )


class StopAt:
    """Is set once a step was told."""

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
    told: list[reports.Progress] = []
    planned = gaussian.training(gaussian.sae("topk"), gaussian.sae("standard"), evaluate_every=20)
    result = train(planned, tmp_path, on_rows=rows.extend, report=told.append)
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
    phases = [each.phase for each in told]
    assert (phases[0], phases[-1]) == ("preparing", "exporting")
    assert [each.step for each in told] == sorted(each.step for each in told)
    assert {each.checkpoint_step for each in told} >= {0, 40}
    for name, folder in result.exports.items():
        assert folder == tmp_path / "saes" / name
        opened = lens.module().SAE.load_from_disk(folder)
        assert opened.cfg.d_sae == 32


@pytest.mark.parametrize("held_out", [4, 0])
def test_an_export_tells_how_often_its_own_latents_fire(held_out: int, tmp_path: pathlib.Path) -> None:
    # A window of training that has just begun anew.
    planned = gaussian.training(gaussian.sae("batchtopk"), feature_sampling_window=39, evaluation_sequences=held_out)
    data = gaussian.Gaussian()
    folder = train(planned, tmp_path, data).exports["sae0"]
    opened = lens.module().SAE.load_from_disk(folder)
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


def test_hooks_of_one_pass_train_each_on_its_own(tmp_path: pathlib.Path) -> None:
    other = "blocks.1.hook_mlp_out"
    first = gaussian.training()
    both = plan.TrainingPlan.from_dict(
        first.to_dict()
        | {"saes": [first.saes[0].to_dict(), first.saes[0].to_dict() | {"name": "second", "hook": other}]}
    )
    alone = train(first, tmp_path / "alone")
    together = train(both, tmp_path / "both")
    assert torch.equal(weights(alone)["sae0"]["W_dec"], weights(together)["sae0"]["W_dec"])
    assert not torch.equal(weights(together)["second"]["W_dec"], weights(together)["sae0"]["W_dec"])


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training(gaussian.sae("topk"), gaussian.sae("jumprelu"))
    whole = train(planned, tmp_path / "whole")
    stop = StopAt(15)
    stopped = train(planned, tmp_path / "stopped", stop=stop, on_rows=stop.on_rows)
    assert (stopped.finished, stopped.step, stopped.exports) == (False, 15, {})
    assert [each.step for each in Checkpoints(tmp_path / "stopped" / "checkpoints").list()] == [10, 15]
    told: list[reports.Progress] = []
    rows: list[reports.Row] = []
    finished = train(planned, tmp_path / "stopped", report=told.append, on_rows=rows.extend)
    assert "Goes on from the checkpoint of step 15." in [each.message for each in told]
    assert rows[0].step == 20
    assert same(weights(whole), weights(finished))
    assert finished.seconds > stopped.seconds


def test_without_evaluation_sequences_there_is_no_evaluation(tmp_path: pathlib.Path) -> None:
    rows: list[reports.Row] = []
    result = train(gaussian.training(evaluation_sequences=0, evaluate_every=10), tmp_path, on_rows=rows.extend)
    assert result.evaluations == []
    assert all(isinstance(row, reports.MetricsRow) for row in rows)
    assert result.exports.keys() == {"sae0"}


def test_a_finished_training_only_evaluates_and_exports_again(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training()
    first = train(planned, tmp_path)
    rows: list[reports.Row] = []
    again = train(planned, tmp_path, on_rows=rows.extend)
    assert [type(row) for row in rows] == [reports.EvaluationRow]
    assert same(weights(first), weights(again))
    assert first.evaluations == again.evaluations


def test_without_resuming_it_begins_anew(tmp_path: pathlib.Path) -> None:
    train(gaussian.training(), tmp_path)
    rows: list[reports.Row] = []
    train(gaussian.training(), tmp_path, resume=False, on_rows=rows.extend)
    assert rows[0].step == 5


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_is_read_before_the_first_step_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(course, "_SECONDS", 0.0)
    told: list[reports.Progress] = []
    normalized = gaussian.sae(normalize_activations="expected_average_only_in")
    train(gaussian.training(normalized), tmp_path, report=told.append, ahead=ahead)
    phases = [each.phase for each in told]
    first = phases.index("training")
    filling = [(each.filled, each.to_fill) for each in told[:first] if each.phase == "filling"]
    # Four batches for the normalisation, then the buffer.
    assert filling == sorted(filling)
    assert len(filling) > 5
    assert {total for _, total in filling} == {4 * 32 + 256}
    assert filling[-1][0] == 4 * 32 + 256
    assert "filling" not in phases[first:]


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_stop_while_the_buffer_is_filled_is_heeded(tmp_path: pathlib.Path, ahead: int) -> None:
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


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training()
    whole = train(planned, tmp_path)
    damaged = tmp_path / "checkpoints" / "step-000000000040" / "sae-00000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    told: list[reports.Progress] = []
    again = train(planned, tmp_path, report=told.append)
    assert [each.message for each in told if each.message] == [
        "Goes on from the checkpoint of step 30. step-000000000040/sae-00000.safetensors does not hold what was "
        "written (sha256 differs)."
    ]
    assert same(weights(whole), weights(again))


def test_data_reuse_is_told(tmp_path: pathlib.Path) -> None:
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
    with pytest.raises(errors.FailedPrecondition, match="made with another buffer_samples, seed"):
        train(gaussian.training(seed=1, buffer_samples=512), tmp_path)


def test_how_often_is_told_may_change(tmp_path: pathlib.Path) -> None:
    train(gaussian.training(), tmp_path)
    assert train(gaussian.training(log_every=3, checkpoint_every=7, evaluate_every=2), tmp_path).finished


@pytest.mark.parametrize("poisoned", [8, 30])
def test_a_loss_that_is_nan_stops_it(tmp_path: pathlib.Path, poisoned: int) -> None:
    with pytest.raises(errors.FailedPrecondition) as raised:
        train(gaussian.training(), tmp_path, gaussian.Gaussian(poison_at=poisoned))
    assert raised.value.reason == "NOT_FINITE"
    assert not raised.value.retryable
    kept = Checkpoints(tmp_path / "checkpoints").list()
    step = raised.value.message.split("step ")[1].split(" ")[0]
    where = f"The checkpoint of step {kept[-1].step} is kept." if kept else "There is no checkpoint before it."
    assert raised.value.message == (
        f"sae0: The loss became NaN or infinite at step {step} ({int(step) * 32:,} samples). {where} A new "
        "training may do better with a lower optimizer.lr (now 0.001), a longer optimizer.lr_warm_up_steps (now 0), "
        "sae.normalize_activations expected_average_only_in."
    )
    assert all(each.step < int(step) for each in kept)
    for each in kept:
        tensors = load_file(tmp_path / "checkpoints" / each.name / "sae-00000.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_a_learning_rate_that_diverges_keeps_finite_checkpoints_only(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training(gaussian.sae("standard"), checkpoint_every=1)
    wild = dataclasses.replace(planned.saes[0], optimizer=plan.OptimizerConfig(lr=1e38, gradient_clip=None))
    with pytest.raises(errors.FailedPrecondition, match=r"sae0: .* NaN or infinite .*optimizer\.gradient_clip 1"):
        train(dataclasses.replace(planned, saes=(wild,)), tmp_path)
    for each in Checkpoints(tmp_path / "checkpoints").list():
        tensors = load_file(tmp_path / "checkpoints" / each.name / "sae-00000.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


@contextmanager
def no_file_longer_than(num_bytes: int) -> Iterator[None]:
    """Writes fail behind this length, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: pathlib.Path) -> None:
    planned = gaussian.training()
    stop = StopAt(10)
    train(planned, tmp_path, stop=stop, on_rows=stop.on_rows)
    with no_file_longer_than(8192), pytest.raises(errors.ResourceExhausted) as raised:
        train(planned, tmp_path)
    assert raised.value.reason == "DISK_FULL"
    assert f"while writing the checkpoint of step 20 ({tmp_path}/checkpoints: " in raised.value.message
    assert "The one of step 10 is kept." in raised.value.message
    assert same(weights(train(planned, tmp_path / "whole")), weights(train(planned, tmp_path)))


class Hungry(gaussian.Gaussian):
    """Its model needs more memory than any machine has."""

    def held_out(self) -> Iterator[Block]:
        torch.empty(1 << 60)
        yield {}


def test_too_little_memory_says_what_to_lower(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ResourceExhausted) as raised:
        train(gaussian.training(), tmp_path, Hungry())
    assert not raised.value.retryable
    assert raised.value.message == (
        "There is not enough memory on cpu for this training. Lower d_sae or the number of autoencoders (weights and "
        "optimiser take 16.0 KiB); then buffer_samples (now 256; they take 16.0 KiB); then batch_size (now 32; a "
        "batch's latents take 4.0 KiB). The newest checkpoint is kept."
    )


def test_what_the_source_raises_reaches_the_caller(tmp_path: pathlib.Path) -> None:
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
    ("hook", "d_in", "message"),
    [
        (
            "blocks.9.hook_mlp_out",
            16,
            "saes.hook: blocks.9.hook_mlp_out is not in the data; it has blocks.0.hook_",
        ),
        (gaussian.HOOK, 12, "sae.d_in is 12; blocks.0.hook_resid_post has 16 numbers a token."),
    ],
)
def test_a_plan_that_does_not_fit_the_data(tmp_path: pathlib.Path, hook: str, d_in: int, message: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=message):
        train(gaussian.training(gaussian.sae(d_in=d_in), hook=hook), tmp_path, gaussian.Gaussian())


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a\nb"])
def test_a_name_that_is_no_folder(tmp_path: pathlib.Path, name: str) -> None:
    planned = gaussian.training()
    named = dataclasses.replace(planned, saes=(dataclasses.replace(planned.saes[0], name=name),))
    with pytest.raises(errors.InvalidArgument, match="cannot be a folder"):
        train(named, tmp_path)
