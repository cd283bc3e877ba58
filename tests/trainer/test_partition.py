"""Autoencoders spread over processes: who trains which, and that each ends as it would in one process."""

import functools
import os
import pathlib
import re
import shutil

import pytest
import torch

from polytok import errors
from services.trainer.sae import configs as plan
from services.trainer.sae import train
from services.trainer.sae.checkpoints import Checkpoints
from services.trainer.sae.data.dataset import ActivationDataset
from services.trainer.sae.distributed import partition
from services.trainer.worker.worker_settings import TrainerSettings
from tests.support import messages
from tests.trainer import attempts, gaussian, models

CORES = str(len(os.sched_getaffinity(0)))

EARLIER = "blocks.0.hook_resid_post"


def of_sizes(*sizes: tuple[str, int], processes: int) -> plan.TrainingPlan:
    saes = [
        plan.PlannedSae(name=f"sae{index}", hook=hook, sae=gaussian.sae(d_sae=d_sae))
        for index, (hook, d_sae) in enumerate(sizes)
    ]
    return plan.TrainingPlan(
        saes=tuple(saes), total_samples=8, batch_size=8, buffer_samples=8, processes=processes, spread="autoencoders"
    )


def test_autoencoders_are_spread_by_hook_and_size() -> None:
    whole = of_sizes(("a", 64), ("b", 64), ("a", 64), ("b", 64), processes=2)
    assert partition.partition_saes(whole) == [(0, 2), (1, 3)]
    assert [partition.get_share(whole, rank).keeper for rank in range(2)] == [0, 1]
    assert partition.list_hooks(whole, (1, 3)) == ("b",)
    assert partition.partition_saes(of_sizes(("a", 16), ("a", 16), ("a", 32), ("a", 64), processes=2)) == [
        (0, 1, 2),
        (3,),
    ]
    assert partition.partition_saes(of_sizes(("a", 64), ("a", 8), ("a", 8), processes=3)) == [(0,), (1,), (2,)]
    same = of_sizes(("a", 64), ("a", 64), ("b", 64), processes=3)
    # The first of those that read the same writes it down for all.
    assert [partition.get_share(same, rank).keeper for rank in range(3)] == [0, 0, 2]


def test_processes_share_batches_by_default() -> None:
    whole = gaussian.training(gaussian.sae(), gaussian.sae("standard"), processes=2)
    assert [partition.get_share(whole, rank) for rank in range(2)] == [
        partition.Share((0, 1), rank, 2, rank) for rank in range(2)
    ]


def open_model(folder: pathlib.Path, _: str) -> ActivationDataset:
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
    exported = folder / train.EXPORTS
    return {str(path.relative_to(exported)): path.read_bytes() for path in exported.glob("*/*")}


def test_spread_autoencoders_match_one_process(tmp_path: pathlib.Path) -> None:
    open_data = functools.partial(open_model, models.save(tmp_path / "model"))
    alone = train.train(spread_plan(processes=1), tmp_path / "alone", open_data=open_data)
    assert len(alone.exports) == 3
    assert attempts.run_together((open_data, spread_plan(), tmp_path / "spread"), 2) == [True, True]
    assert files(tmp_path / "spread") == files(tmp_path / "alone")
    ours, theirs = (Checkpoints(tmp_path / name / train.CHECKPOINTS).latest() for name in ("spread", "alone"))
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
    shutil.copytree(tmp_path / "spread" / train.CHECKPOINTS, tmp_path / "resumed" / train.CHECKPOINTS)
    shutil.rmtree(tmp_path / "resumed" / train.CHECKPOINTS / "step-000000000020")
    assert attempts.run_together((open_data, spread_plan(), tmp_path / "resumed"), 2) == [True, True]
    assert files(tmp_path / "resumed") == files(tmp_path / "alone")


@pytest.mark.parametrize(
    ("fields", "field", "names"),
    [
        ({"processes": 0}, "processes", [0, 1]),
        ({"spread": "evenly"}, "spread", ["'evenly'", "data", "autoencoders"]),
        ({"processes": 3, "spread": "autoencoders"}, "processes", [3, "1 autoencoder"]),
        ({"processes": 3}, "batch_size", [32, "3 processes"]),
        ({"processes": 2, "buffer_samples": 255}, "buffer_samples", [255, "2 processes"]),
    ],
)
def test_invalid_spread(fields: dict[str, object], field: str, names: list[object]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        gaussian.training(gaussian.sae(), **fields)
    assert [each.field for each in caught.value.violations] == [field]
    messages.check_names(caught.value.message, field, *names)


def test_as_many_processes_as_the_plan_has() -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        train.train(spread_plan(), pathlib.Path("unused"), open_data=lambda _: gaussian.Gaussian())
    messages.check_names(caught.value.message, "processes", 2, 1)


@pytest.mark.parametrize(
    ("settings", "processes", "gpus", "numbers"),
    [
        ({}, 9, 8, ["9", "8", "8"]),
        ({}, 2, 1, ["2", "1", "1"]),
        ({"processes": 4}, 5, 8, ["5", "8", "4", "4"]),
        ({"processes": 4}, 3, 2, ["3", "2", "4", "2"]),
        ({"processes": 1}, 2, None, ["2", CORES, "1", "1"]),
        ({}, 4096, None, ["4096", CORES, CORES]),
    ],
)
def test_more_processes_than_devices(
    settings: dict[str, int], processes: int, gpus: int | None, numbers: list[str]
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        TrainerSettings(**settings).check(processes, gpus)
    assert [each.field for each in caught.value.violations] == ["parameters.processes"]
    # Asked for, there, allowed by the setting where it is set, and possible.
    assert re.findall(r"\d+", caught.value.message) == numbers
    assert ("GPU" in caught.value.message) == (gpus is not None)
    assert ("POLYTOK_TRAINER_PROCESSES" in caught.value.message) == bool(settings)
    TrainerSettings(processes=64).check(64, None)
    TrainerSettings().check(8, 8)


def test_missing_gpu() -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        TrainerSettings(device="cuda").check(1, 0)
    assert caught.value.reason == "NOT_READY"
    messages.check_names(caught.value.message, "POLYTOK_TRAINER_DEVICE", "cuda", "GPU")


def test_threads_are_shared_out() -> None:
    assert TrainerSettings(threads=3).threads_of(2) == 3
    cores = TrainerSettings().usable_threads
    assert (TrainerSettings().threads_of(1), TrainerSettings().threads_of(cores)) == (cores, 1)
