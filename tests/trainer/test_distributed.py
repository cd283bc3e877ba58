"""Several processes train as one: torchrun starts them, gradients are shared, each reads its part."""

import pathlib
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from polytok import errors
from services.trainer.sae import architectures, configs, export, reports
from services.trainer.sae.checkpoints import Checkpoints
from services.trainer.sae.data.dataset import ActivationDataset
from services.trainer.sae.distributed import launch, process_group
from tests.support import messages
from tests.trainer import attempts, gaussian, models, rank_program
from tests.trainer.test_training import StopAt

RUNS = ("whole", "resumed")


def open_gaussian(_: str) -> ActivationDataset:
    return gaussian.Gaussian()


def planned(**fields: object) -> configs.TrainingPlan:
    saes = [gaussian.sae("topk", normalize_activations="expected_average_only_in"), gaussian.sae("standard")]
    return gaussian.training(*saes, hook=models.HOOK, **{"total_samples": 32 * 20, "processes": 2} | fields)


@pytest.fixture
def read(tmp_path: pathlib.Path) -> dict[str, str]:
    models.tokens().save_to_disk(tmp_path / "tokens")
    return {"model": str(models.save(tmp_path / "model")), "tokens": str(tmp_path / "tokens")}


def launched(plan: configs.TrainingPlan, folder: pathlib.Path, read: dict[str, str], **options: Any) -> reports.Result:
    return launch.train(plan, folder, read, module=rank_program.__name__, **options)


@pytest.mark.long
def test_two_processes_read_apart_and_train_alike(tmp_path: pathlib.Path) -> None:
    whole = gaussian.training(gaussian.sae("batchtopk"), gaussian.sae("standard"), total_samples=32 * 20, processes=2)
    assert attempts.run_together((open_gaussian, whole, tmp_path / "whole"), 2) == [True, True]
    # The second time they go on from the last checkpoint but one.
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "resumed" / "checkpoints")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-000000000020")
    assert attempts.run_together((open_gaussian, whole, tmp_path / "resumed"), 2) == [True, True]
    for name in ("sae0", "sae1"):
        one, other = (load_file(tmp_path / each / "saes" / name / "sae_weights.safetensors") for each in RUNS)
        assert all(torch.equal(one[key], other[key]) for key in one)
    loaded = Checkpoints(tmp_path / "whole" / "checkpoints").latest()
    assert loaded is not None
    first, second = (loaded.states[f"data-0000{rank}"].tensors for rank in range(2))
    key = f"buffer.held.{gaussian.HOOK}"
    assert len(first[key]) == len(second[key]) == 128
    assert not torch.equal(first[key], second[key])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_torchrun_reports_stops_and_continues(tmp_path: pathlib.Path, read: dict[str, str]) -> None:
    rows: list[reports.Row] = []
    sent: list[reports.Progress] = []
    origins = {
        f"sae{index}": export.Origin(model_name="tiny", hook_name=models.HOOK, context_size=40, prepend_bos=True)
        for index in range(2)
    }
    whole = launched(planned(), tmp_path / "whole", read, on_rows=rows.extend, report=sent.append, origins=origins)
    assert whole.finished
    assert [(row.sae, row.step) for row in rows if isinstance(row, reports.MetricsRow)] == [
        (f"sae{index}", step) for step in (5, 10, 15, 20) for index in range(2)
    ]
    assert whole.evaluations == [row for row in rows if isinstance(row, reports.EvaluationRow)]
    assert sent[-1].phase == "exporting"
    assert architectures.import_sae_lens().SAE.load_from_disk(whole.exports["sae0"]).cfg.metadata.model_name == "tiny"
    stop = StopAt(10)
    stopped = launched(planned(), tmp_path / "stopped", read, stop=stop, on_rows=stop.on_rows, origins=origins)
    assert stopped.finished == (stopped.step == 20)
    again = launched(planned(), tmp_path / "stopped", read, origins=origins)
    for name, folder in whole.exports.items():
        one, other = (load_file(each / "sae_weights.safetensors") for each in (folder, again.exports[name]))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_error_in_one_process(tmp_path: pathlib.Path, read: dict[str, str]) -> None:
    launched(planned(), tmp_path / "made", read)
    with pytest.raises(errors.FailedPrecondition) as raised:
        launched(planned(processes=1), tmp_path / "made", read)
    messages.check_names(raised.value.message, "processes", 2, 1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_any_process_names_activations_that_are_not_finite(tmp_path: pathlib.Path, read: dict[str, str]) -> None:
    weights = pathlib.Path(read["model"]) / "model.safetensors"
    tensors = load_file(weights)
    tensors["transformer.wte.weight"][:, 0] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(errors.FailedPrecondition) as raised:
        launched(planned(), tmp_path / "made", read)
    assert raised.value.reason == "NOT_FINITE"
    assert raised.value.metadata.keys() == {"hook", "row", "position"}
    row, position = (f"{name} {raised.value.metadata[name]}" for name in ("row", "position"))
    messages.check_names(raised.value.message, raised.value.metadata["hook"], row, position)


def test_one_process_is_a_group_of_its_own() -> None:
    group = process_group.ProcessGroup()
    assert (group.first, group.gather({"a": 1})) == (True, [{"a": 1}])
    tensor = torch.ones(2)
    assert group.sum(tensor) is tensor
