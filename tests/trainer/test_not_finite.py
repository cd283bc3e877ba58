"""A model's NaN and infinities are named where they are read; the learning rate is not blamed for them."""

import pathlib
from collections.abc import Callable

import datasets
import pytest
import torch

from polytok import errors
from services.activations import activation_stream, finiteness, models
from services.extractor.worker import extraction as row_extraction
from services.trainer.sae import train
from services.trainer.sae.data import extraction, live
from services.trainer.sae.data.dataset import ActivationDataset
from tests.support import messages
from tests.trainer import gaussian
from tests.trainer import models as small

HOOK = "blocks.0.hook_resid_pre"
"""Before any attention, in which a NaN reaches positions before it: 0 times NaN is NaN."""
ROWS = datasets.Dataset.from_dict({"input_ids": [[3] * 8, [3, 3, 40, 3, 3, 3, 3, 3]] + [[4] * 8] * 38})
Spoil = Callable[[str], models.LoadedModel]


@pytest.fixture
def spoiled(tmp_path: pathlib.Path) -> Spoil:
    """A model whose residual stream is beyond float16 for token 40, and NaN for it in any other number format."""
    folder = small.save(tmp_path / "model")

    def load(dtype: str) -> models.LoadedModel:
        model = models.load(folder, dtype=dtype)
        with torch.no_grad():
            # As a model's own sum overflows: each summand is a float16.
            model.module.transformer.wte.weight[40, 1] = 6e4 if dtype == "float16" else torch.nan
            model.module.transformer.wpe.weight[:, 1] = 6e4
        return model

    return load


def live_data(model: models.LoadedModel) -> ActivationDataset:
    return live.LiveDataset(model, ROWS, activation_stream.StreamSettings(hooks=(HOOK,)), seed=0, held_out_rows=4)


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        ("float16", ["float16", "65,504", "float32", "bfloat16"]),
        ("bfloat16", ["bfloat16"]),
    ],
)
@pytest.mark.parametrize("normalize", ["none", "expected_average_only_in"])
def test_live(spoiled: Spoil, tmp_path: pathlib.Path, dtype: str, advice: list[str], normalize: str) -> None:
    planned = gaussian.training(gaussian.sae(normalize_activations=normalize), hook=HOOK)
    with pytest.raises(errors.FailedPrecondition) as raised:
        train.train(planned, tmp_path / "out", open_data=lambda _: live_data(spoiled(dtype)))
    assert raised.value.reason == "NOT_FINITE"
    assert not raised.value.retryable
    assert raised.value.metadata == {"hook": HOOK, "row": "1", "position": "2"}
    messages.check_names(raised.value.message, HOOK, "row 1", "position 2", *advice)
    assert ("float32" in raised.value.message) == (dtype == "float16")
    assert "lr" not in raised.value.message


def test_held_out(spoiled: Spoil) -> None:
    model = spoiled("float16")
    seed = next(seed for seed in range(100) if 1 in live.split(len(ROWS), 4, seed)[1])
    data = live.LiveDataset(model, ROWS, activation_stream.StreamSettings(hooks=(HOOK,)), seed=seed, held_out_rows=4)
    with pytest.raises(errors.FailedPrecondition) as raised:
        list(data.held_out())
    assert raised.value.metadata == {"hook": HOOK, "row": "1", "position": "2"}
    messages.check_names(raised.value.message, "row 1", "position 2", "float32", "bfloat16")


def test_extraction_that_kept_them(spoiled: Spoil, tmp_path: pathlib.Path) -> None:
    settings = row_extraction.RangeSettings(hooks=(HOOK,), context_size=8, nonfinite="keep")
    made = row_extraction.extract(
        spoiled("float32"), ROWS, 0, len(ROWS), settings, tmp_path / "parts", "p", lambda *_: None
    )
    rows = datasets.Dataset.from_file(str(tmp_path / "parts" / made.files[0].key))
    data = extraction.ExtractionDataset(rows, (HOOK,), seed=0, held_out_rows=4)
    with pytest.raises(errors.FailedPrecondition) as raised:
        train.train(gaussian.training(hook=HOOK), tmp_path / "out", open_data=lambda _: data)
    assert raised.value.metadata == {"hook": HOOK, "row": "1", "position": "2"}
    messages.check_names(raised.value.message.lower(), "extract again", "float32", "bfloat16")


def test_large_numbers_are_finite(spoiled: Spoil) -> None:
    """A sum beyond a number format's range is no reason."""
    assert finiteness.find_not_finite(torch.full((300, 4), 6e4, dtype=torch.float16)) is None
    assert finiteness.find_not_finite(torch.full((4, 4), 3e38)) is None
    assert finiteness.find_not_finite(torch.tensor([[1.0, 1.0], [torch.inf, -torch.inf]])) == (2, 1)
