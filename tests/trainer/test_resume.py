"""A training killed at any moment and gone on with ends with the same weights, bit for bit."""

import functools
import hashlib
import pathlib
import random
from collections.abc import Callable

import pytest
import torch

from services.trainer.sae import configs, train
from services.trainer.sae.checkpoints import Checkpoints
from services.trainer.sae.data import extraction
from services.trainer.sae.data.activation_buffer import ActivationBuffer
from services.trainer.sae.data.dataset import ActivationDataset, CheckpointState
from services.trainer.sae.data.prefetch import Prefetcher
from tests.trainer import attempts, gaussian, models


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return models.save(tmp_path_factory.mktemp("model"))


def open_live(folder: pathlib.Path, _: str) -> ActivationDataset:
    return models.data(folder)


def open_extraction(folder: pathlib.Path, _: str) -> ActivationDataset:
    return extraction.ExtractionDataset(extraction.open_extraction(folder), (models.HOOK,), seed=0, held_out_rows=4)


def planned(hook: str, architectures: tuple[configs.Architecture, ...], threads: int) -> configs.TrainingPlan:
    scales: tuple[configs.Normalization, ...] = ("expected_average_only_in", "covariance_whitening", "none")
    saes = [
        gaussian.sae(architecture, normalize_activations=scales[index % 3], matryoshka_widths=(8,))
        for index, architecture in enumerate(architectures)
    ]
    return gaussian.training(*saes, hook=hook, threads=threads, log_every=1, checkpoint_every=4, total_samples=32 * 60)


def last_state(folder: pathlib.Path) -> dict[str, CheckpointState]:
    loaded = Checkpoints(folder / train.CHECKPOINTS).latest()
    assert loaded is not None
    assert loaded.damaged == []
    return loaded.states


def next_batches(
    open_data: Callable[[str], ActivationDataset], whole: configs.TrainingPlan, state: CheckpointState
) -> list[str]:
    """What a training would take next: how many batches are ready is a matter of timing, which they are is not."""
    buffer = ActivationBuffer(
        open_data("cpu").source(0, 1), samples=whole.buffer_samples, batch=whole.batch_size, seed=whole.seed
    )
    stream = Prefetcher(buffer, 0)
    stream.load(state)
    batches = [stream.take() for _ in range(20)]
    return [hashlib.sha256(batch[hook].numpy().tobytes()).hexdigest() for batch in batches for hook in sorted(batch)]


def assert_same(
    one: pathlib.Path, other: pathlib.Path, open_data: Callable[[str], ActivationDataset], whole: configs.TrainingPlan
) -> None:
    first, second = last_state(one), last_state(other)
    assert first.keys() == second.keys()
    data = "data-00000"
    assert next_batches(open_data, whole, first.pop(data)) == next_batches(open_data, whole, second.pop(data))
    for name, state in first.items():
        assert state.values == second[name].values, name
        assert state.tensors.keys() == second[name].tensors.keys()
        for key, tensor in state.tensors.items():
            assert torch.equal(tensor, second[name].tensors[key]), f"{name} {key}"
    exported = list((one / train.EXPORTS).glob("*/*"))
    assert len(exported) == 3 * len(whole.saes)
    for path in exported:
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes(), path


def check(
    folder: pathlib.Path, open_data: Callable[[str], ActivationDataset], whole: configs.TrainingPlan, kills: int
) -> None:
    """Train without and with kills, and compare all that is left."""
    assert attempts.run((open_data, whole, folder / "whole"), None, random.Random(0))
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    assert attempts.until_the_end((open_data, whole, folder / "killed"), kills, seed) >= 1
    assert_same(folder / "whole", folder / "killed", open_data, whole)


@pytest.mark.parametrize("source", ["live", "extraction"])
def test_killed_trainings_end_bit_for_bit_like_others(
    tmp_path: pathlib.Path, model_folder: pathlib.Path, source: str
) -> None:
    open_data = functools.partial(open_live, model_folder)
    if source == "extraction":
        open_data = functools.partial(open_extraction, models.extract(model_folder, tmp_path))
    check(tmp_path, open_data, planned(models.HOOK, ("topk", "standard", "batchtopk"), threads=1), kills=3)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_architecture_with_several_threads(tmp_path: pathlib.Path, model_folder: pathlib.Path) -> None:
    open_data = functools.partial(open_live, model_folder)
    check(tmp_path, open_data, planned(models.HOOK, configs.ARCHITECTURES, threads=2), kills=8)
