"""Hooks give and replace what TransformerLens does under the same names, nothing folded or centred.

HookedTransformer and HookedEncoder compute everything themselves from converted weights; the families that they do not
open from a directory are compared with TransformerBridge, which runs the model of transformers.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
import torch
import transformers

from services.activations import forward_capture, hooks
from services.activations.models import LoadedModel
from services.trainer.sae.evaluation import splice
from tests.activations import tiny_models

pytestmark = [
    # Of TransformerLens and what it imports.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
IDS = torch.tensor(tiny_models.rows(2, 5, 5))
"""No longer than the shortest window, as TransformerLens knows of windows in some families only."""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a place whose name has no model's in it: TransformerLens guesses the architecture from the path."""
    return tmp_path_factory.mktemp("place")


def _names(model: LoadedModel) -> list[str]:
    layers = range(model.description.n_layers)
    return [f"blocks.{layer}.{point}" for layer in layers for point in tiny_models.points(model, layer)]


def _captured(model: LoadedModel) -> dict[str, torch.Tensor]:
    with forward_capture.ActivationCapture(model, hooks.parse_hooks(_names(model), model.description)) as capture:
        return capture.run(IDS)


def _hooked(folder: pathlib.Path, model: LoadedModel, kind: Any) -> Any:
    """TransformerLens's own model, with the weights of the directory."""
    from transformer_lens.loading_from_pretrained import get_pretrained_model_config, get_pretrained_state_dict

    configuration = get_pretrained_model_config(str(folder), fold_ln=False, device="cpu", dtype=torch.float32)
    # It would look for a tokenizer otherwise.
    configuration.tokenizer_name = None
    state = get_pretrained_state_dict(str(folder), configuration, model.module, dtype=torch.float32)
    return kind(configuration), state


def _renamed(name: str, renamed: dict[str, str] | None) -> str:
    layer, point = name.rsplit(".hook_", 1)
    return f"{layer}.hook_{(renamed or {}).get(point, point)}"


def _changed(value: torch.Tensor, hook: Any = None) -> torch.Tensor:
    """Return what stands in for an activation: as far from it as an autoencoder that has learned little."""
    return 0.5 * value.roll(1, -1) + 0.3


def _compare_replaced(
    model: LoadedModel, run_with_hooks: Callable[..., Any], names: list[str], renamed: dict[str, str] | None = None
) -> None:
    """Logits with each hook replaced, one after the other."""
    kept = torch.ones_like(IDS, dtype=torch.bool)
    for name in names:
        (hook,) = hooks.parse_hooks([name], model.description)
        theirs = _renamed(name, renamed) if name != "hook_embed" else name
        with torch.no_grad(), splice.replace_activations(model, hook, kept, _changed):
            ours = model.module(IDS).logits
        with torch.no_grad():
            expected = run_with_hooks(fwd_hooks=[(theirs, _whole if name.endswith("hook_z") else _changed)])
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4, msg=lambda text: f"{name}: {text}")  # noqa: B023


def _whole(value: torch.Tensor, hook: Any = None) -> torch.Tensor:
    """Return the same with the heads side by side, as an autoencoder sees them."""
    return _changed(value.flatten(2)).view(value.shape)


def _compare(model: LoadedModel, cache: Any, renamed: dict[str, str] | None = None) -> None:
    for name, value in _captured(model).items():
        theirs = cache[_renamed(name, renamed)]
        torch.testing.assert_close(value, theirs.flatten(2), rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023


@pytest.mark.parametrize(
    "kind", ["gpt2", "gpt_neo", "gpt_neox", "gptj", "llama", "mistral", "mixtral", "opt", "phi3", "qwen2", "qwen3"]
)
def test_hooked_transformer(kind: str, folder: pathlib.Path) -> None:
    from transformer_lens import HookedTransformer

    model = tiny_models.load(kind, folder)
    hooked, state = _hooked(folder / tiny_models.FOLDER, model, HookedTransformer)
    hooked.load_and_process_state_dict(
        state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    _, cache = hooked.run_with_cache(IDS)
    _compare(model, cache)
    ends = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", ".hook_z", "mlp.hook_post")
    # Where TransformerLens has no middle, as in blocks whose halves run side by side, there is none here.
    assert {name for name in cache if name.endswith(ends)} == set(_captured(model))
    _compare_replaced(model, functools.partial(hooked.run_with_hooks, IDS), ["hook_embed", *_names(model)])


def test_hooked_encoder(folder: pathlib.Path) -> None:
    from transformer_lens import HookedEncoder

    model = tiny_models.load("bert", folder)
    whole = transformers.BertForPreTraining(model.module.config)
    whole.bert.load_state_dict(model.base.state_dict(), strict=False)
    whole.cls.predictions.load_state_dict(model.module.cls.predictions.state_dict())
    whole.save_pretrained(folder / "whole")
    hooked, state = _hooked(
        folder / tiny_models.FOLDER, LoadedModel(**model.__dict__ | {"module": whole}), HookedEncoder
    )
    hooked.load_state_dict(state, strict=False)
    _, cache = hooked.run_with_cache(IDS)
    # HookedEncoder's residual stream behind a block is the one before its norm.
    renamed = {"resid_post": "normalized_resid_post"}
    _compare(model, cache, renamed)
    _compare_replaced(model, functools.partial(hooked.run_with_hooks, IDS), _names(model), renamed)


@pytest.mark.parametrize(
    "kind",
    [
        "deepseek_v2",
        "deepseek_v3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt_oss",
        "mixtral",
        "olmo2",
        "olmoe",
        "phi",
        "qwen2_moe",
        "qwen3_moe",
        "smollm3",
        "starcoder2",
    ],
)
def test_transformer_bridge(kind: str, folder: pathlib.Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    model = tiny_models.load(kind, folder)
    vocabulary = {f"t{number}": number for number in range(tiny_models.ROWS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t0"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="t0", eos_token="t1", pad_token="t2"
    ).save_pretrained(folder / tiny_models.FOLDER)
    theirs = tiny_models.load(kind, folder).module
    bridge = TransformerBridge.boot_transformers(
        str(folder / tiny_models.FOLDER),
        hf_model=theirs,
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder / tiny_models.FOLDER),
        device="cpu",
    )
    with torch.no_grad():
        _, cache = bridge.run_with_cache(IDS)
    _compare(model, cache)
    # At resid_mid the bridge replaces the input of the second norm alone: what is added behind keeps the old values.
    names = ["hook_embed", *(name for name in _names(model) if not name.endswith("resid_mid"))]
    _compare_replaced(model, functools.partial(bridge.run_with_hooks, IDS), names)
