"""SAELens trains from an extraction's files as from its own cached activations; nothing is converted."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from services.activations.models import LoadedModel
from services.extractor.worker import extraction
from tests.activations import tiny_models
from tests.extractor.test_ranges import HOOKS, publish

pytestmark = [
    # Of SAELens and what it imports.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ROWS = tiny_models.rows(64, 24, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Return a tiny GPT-2."""
    return tiny_models.load("gpt2", tmp_path_factory.mktemp("model"))


def _published(model: LoadedModel, folder: pathlib.Path, storage_dtype: str) -> extraction.ExtractionResult:
    settings = extraction.RangeSettings(hooks=HOOKS, context_size=16, storage_dtype=storage_dtype)
    made = extraction.extract(model, tiny_models.dataset(ROWS), 0, len(ROWS), settings, folder, "part", lambda *_: None)
    publish(folder, [file.key for file in made.files], storage_dtype)
    return made


def _store(folder: pathlib.Path, model: Any, hook: str, width: int, **changes: Any) -> Any:
    from sae_lens.training.activations_store import ActivationsStore

    options: dict[str, Any] = {
        "model": model,
        "dataset": None,
        "streaming": False,
        "hook_name": hook,
        "hook_head_index": None,
        "context_size": 16,
        "d_in": width,
        "n_batches_in_buffer": 4,
        "total_training_tokens": 256,
        "store_batch_size_prompts": 4,
        "train_batch_size_tokens": 32,
        "prepend_bos": False,
        "normalize_activations": "none",
        "device": torch.device("cpu"),
        "dtype": "float32",
        "cached_activations_path": str(folder),
    }
    return ActivationsStore(**(options | changes))


@pytest.mark.parametrize("storage_dtype", ["float32", "float16"])
def test_its_store_reads_all_of_it(model: LoadedModel, tmp_path: pathlib.Path, storage_dtype: str) -> None:
    made = _published(model, tmp_path, storage_dtype)
    for hook, width in zip(HOOKS, (32, 128), strict=True):
        store = _store(tmp_path, model.module, hook, width, store_batch_size_prompts=1)
        batches = [store.get_raw_llm_batch() for _ in range(made.tokens // 16)]
        ids = torch.cat([tokens for _, tokens in batches])
        assert ids.tolist() == [token for row in ROWS for token in row[:16]][: made.tokens]
        vectors = torch.cat([values for values, _ in batches])
        assert vectors.shape == (made.tokens, width)
        with torch.no_grad():
            hidden = model.module(torch.tensor([ROWS[0][:16]]), output_hidden_states=True).hidden_states[1][0]
        if hook == HOOKS[0]:
            torch.testing.assert_close(vectors[: len(hidden)], hidden, rtol=2e-3, atol=2e-3)


def test_its_filter_of_special_tokens_works(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    _published(model, tmp_path, "float32")
    store = _store(tmp_path, model.module, HOOKS[0], 32, exclude_special_tokens=torch.tensor([5, 6]))
    _, ids = _store(tmp_path, model.module, HOOKS[0], 32).get_raw_llm_batch()
    assert len(store.get_filtered_llm_batch()) == len(ids) - int(torch.isin(ids, torch.tensor([5.0, 6.0])).sum())


def test_it_does_not_take_bits_for_numbers(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    _published(model, tmp_path, "bfloat16")
    with pytest.raises(ValueError, match=r"Columns|does not include hook activations"):
        _store(tmp_path, model.module, HOOKS[0], 32)


def test_it_trains(model: LoadedModel, tmp_path: pathlib.Path) -> None:
    from sae_lens import (
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        StandardTrainingSAEConfig,
    )

    made = _published(model, tmp_path / "activations", "float32")
    config = LanguageModelSAERunnerConfig(
        sae=StandardTrainingSAEConfig(d_in=32, d_sae=48, l1_coefficient=1.0),
        model_name="unused",
        hook_name=HOOKS[0],
        dataset_path="unused",
        streaming=False,
        context_size=16,
        use_cached_activations=True,
        cached_activations_path=str(tmp_path / "activations"),
        training_tokens=1024,
        train_batch_size_tokens=64,
        store_batch_size_prompts=4,
        n_batches_in_buffer=4,
        lr=1e-2,
        n_eval_batches=0,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=str(tmp_path / "sae"),
        device="cpu",
        dtype="float32",
        prepend_bos=False,
    )
    tokens = tiny_models.dataset([row[:1] * 16 for row in ROWS])
    sae = LanguageModelSAETrainingRunner(config, override_dataset=tokens, override_model=model.module).run()
    assert made.tokens >= 700
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in sae.parameters())
    assert (tmp_path / "sae" / "sae_weights.safetensors").exists()
