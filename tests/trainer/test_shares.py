"""Autoencoders spread over processes: who trains which, and that each ends as it would in one process."""

import functools
import pathlib
import shutil

import pytest
import torch

from polytok import errors
from services.trainer import plan, shares, training
from services.trainer.checkpoints import Checkpoints
from services.trainer.data.streams import Data
from services.trainer.worker.settings import TrainerSettings
from tests.trainer import attempts, gaussian, models

EARLIER = "blocks.0.hook_resid_post"


def of_sizes(*sizes: tuple[str, int], processes: int) -> plan.TrainingPlan:
    saes = [
        plan.PlannedSae(name=f"sae{index}", hook=hook, sae=gaussian.sae(d_sae=d_sae))
        for index, (hook, d_sae) in enumerate(sizes)
    ]
    return plan.TrainingPlan(
        saes=tuple(saes), total_samples=8, batch_size=8, buffer_samples=8, processes=processes, spread="autoencoders"
    )


def test_each_process_gets_autoencoders_by_their_size_and_those_of_a_hook_together() -> None:
    whole = of_sizes(("a", 64), ("b", 64), ("a", 64), ("b", 64), processes=2)
    assert shares.deal(whole) == [(0, 2), (1, 3)]
    assert [shares.of(whole, rank).keeper for rank in range(2)] == [0, 1]
    assert shares.hooks(whole, (1, 3)) == ("b",)
    assert shares.deal(of_sizes(("a", 16), ("a", 16), ("a", 32), ("a", 64), processes=2)) == [(0, 1, 2), (3,)]
    assert shares.deal(of_sizes(("a", 64), ("a", 8), ("a", 8), processes=3)) == [(0,), (1,), (2,)]
    same = of_sizes(("a", 64), ("a", 64), ("b", 64), processes=3)
    # The first of those that read the same writes it down for all.
    assert [shares.of(same, rank).keeper for rank in range(3)] == [0, 0, 2]


def test_without_a_spread_each_process_has_a_part_of_everything() -> None:
    whole = gaussian.training(gaussian.sae(), gaussian.sae("standard"), processes=2)
    assert [shares.of(whole, rank) for rank in range(2)] == [shares.Share((0, 1), rank, 2, rank) for rank in range(2)]


def open_model(folder: pathlib.Path, _: str) -> Data:
    return models.data(folder, (EARLIER, models.HOOK))


def spread_plan(**fields: object) -> plan.TrainingPlan:
    configs: list[tuple[str, plan.SaeConfig]] = [
        (models.HOOK, gaussian.sae("topk", normalize_activations="expected_average_only_in")),
        (EARLIER, gaussian.sae("batchtopk", normalize_activations="covariance_whitening")),
        (models.HOOK, gaussian.sae("standard")),
    ]
    saes = tuple(
        plan.PlannedSae(name=f"sae{index}", hook=hook, sae=sae, optimizer=plan.OptimizerConfig(lr=1e-3))
        for index, (hook, sae) in enumerate(configs)
    )
    known = {"total_samples": 32 * 20, "processes": 2, "spread": "autoencoders"} | fields
    base = gaussian.training(**{name: value for name, value in known.items() if name not in ("processes", "spread")})
    return plan.TrainingPlan.from_dict(base.to_dict() | known | {"saes": [each.to_dict() for each in saes]})


def files(folder: pathlib.Path) -> dict[str, bytes]:
    exported = folder / training.EXPORTS
    return {str(path.relative_to(exported)): path.read_bytes() for path in exported.glob("*/*")}


def test_spread_autoencoders_end_bit_for_bit_as_in_one_process(tmp_path: pathlib.Path) -> None:
    open_data = functools.partial(open_model, models.save(tmp_path / "model"))
    alone = training.train(spread_plan(processes=1), tmp_path / "alone", open_data=open_data)
    assert len(alone.exports) == 3
    assert attempts.run_together((open_data, spread_plan(), tmp_path / "spread"), 2) == [True, True]
    assert files(tmp_path / "spread") == files(tmp_path / "alone")
    ours, theirs = (Checkpoints(tmp_path / name / training.CHECKPOINTS).latest() for name in ("spread", "alone"))
    assert ours is not None
    assert theirs is not None
    assert set(ours.states) == {"sae-00000", "sae-00001", "sae-00002", "data-00000", "data-00001", "random"}
    for name, state in theirs.states.items():
        if name.startswith("sae"):
            assert ours.states[name].values == state.values
            assert all(torch.equal(ours.states[name].tensors[key], tensor) for key, tensor in state.tensors.items())
    # A process holds the activations of its own hooks alone.
    held = [{key for key in ours.states[f"data-0000{rank}"].tensors if ".held." in key} for rank in range(2)]
    assert held == [{f"buffer.held.{models.HOOK}"}, {f"buffer.held.{EARLIER}"}]
    # From the checkpoint before the last it goes on to the same end.
    shutil.copytree(tmp_path / "spread" / training.CHECKPOINTS, tmp_path / "resumed" / training.CHECKPOINTS)
    shutil.rmtree(tmp_path / "resumed" / training.CHECKPOINTS / "step-000000000020")
    assert attempts.run_together((open_data, spread_plan(), tmp_path / "resumed"), 2) == [True, True]
    assert files(tmp_path / "resumed") == files(tmp_path / "alone")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"processes": 0}, "processes is 0; it must be at least 1"),
        ({"spread": "evenly"}, "spread is 'evenly'; it must be one of data, autoencoders"),
        ({"processes": 3, "spread": "autoencoders"}, "processes is 3, and there is 1 autoencoder; every process needs"),
        ({"processes": 3}, "batch_size is 32, which 3 processes cannot share evenly; make it a multiple"),
        ({"processes": 2, "buffer_samples": 255}, "buffer_samples is 255, which 2 processes cannot share evenly"),
    ],
)
def test_a_plan_that_cannot_be_spread_is_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=told) as caught:
        gaussian.training(gaussian.sae(), **fields)
    assert caught.value.violations


def test_as_many_processes_as_the_plan_has() -> None:
    with pytest.raises(errors.FailedPrecondition, match="processes is 2, and 1 of them run"):
        training.train(spread_plan(), pathlib.Path("unused"), open_data=lambda _: gaussian.Gaussian())


@pytest.mark.parametrize(
    ("settings", "processes", "gpus", "told"),
    [
        ({}, 9, 8, r"processes is 9; each needs a device of its own, and this worker has 8 GPUs\. .* with 8 at most"),
        ({}, 2, 1, "this worker has 1 GPU. Create the training with 1 at most"),
        ({"processes": 4}, 5, 8, r"has 8 GPUs, and POLYTOK_TRAINER_PROCESSES allows 4\. Create the training with 4"),
        ({"processes": 4}, 3, 2, "has 2 GPUs, and POLYTOK_TRAINER_PROCESSES allows 4. Create the training with 2"),
        ({"processes": 1}, 2, None, r"processor cores?, and POLYTOK_TRAINER_PROCESSES allows 1\."),
        ({}, 4096, None, r"this worker has \d+ processor cores?\."),
    ],
)
def test_more_processes_than_devices(settings: dict[str, int], processes: int, gpus: int | None, told: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=told) as caught:
        TrainerSettings(**settings).check(processes, gpus)
    assert [each.field for each in caught.value.violations] == ["parameters.processes"]
    TrainerSettings(processes=64).check(64, None)
    TrainerSettings().check(8, 8)


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(errors.FailedPrecondition, match="POLYTOK_TRAINER_DEVICE is cuda, and this worker has no GPU"):
        TrainerSettings(device="cuda").check(1, 0)


def test_threads_are_shared_out() -> None:
    assert TrainerSettings(threads=3).threads_of(2) == 3
    cores = TrainerSettings().usable_threads
    assert (TrainerSettings().threads_of(1), TrainerSettings().threads_of(cores)) == (cores, 1)
