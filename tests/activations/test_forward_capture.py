"""Only what is needed runs, and a model is left as it was."""

from typing import Any

import pytest
import torch

from polytok import errors
from services.activations import forward_capture, hooks
from services.activations.models import LoadedModel
from tests.support.messages import words

IDS = torch.tensor([[5, 6, 7, 8]])


def _calls(model: LoadedModel, names: list[str]) -> set[str]:
    """Return the modules that ran to their end while these hooks were captured."""
    ran: set[str] = set()

    def note(path: str) -> Any:
        return lambda *_: ran.add(path)

    handles = [module.register_forward_hook(note(path)) for path, module in model.module.named_modules()]
    try:
        with forward_capture.ActivationCapture(model, hooks.parse_hooks(names, model.description)) as capture:
            capture.run(IDS)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def test_no_later_layer_runs(gpt2: LoadedModel) -> None:
    ran = _calls(gpt2, ["blocks.0.attn.hook_z", "blocks.1.hook_resid_post"])
    assert "transformer.h.1.mlp" in ran
    assert not any(path.startswith(("transformer.h.2", "transformer.ln_f", "lm_head")) for path in ran)


def test_nothing_behind_the_last_hook_runs(gpt2: LoadedModel) -> None:
    ran = _calls(gpt2, ["blocks.1.hook_attn_out"])
    assert "transformer.h.1.attn" in ran
    assert "transformer.h.1.ln_2" not in ran


def test_last_layer_leaves_out_norm_and_logits(gpt2: LoadedModel) -> None:
    ran = _calls(gpt2, ["blocks.2.hook_resid_post"])
    assert "transformer.h.2" in ran
    assert not ran & {"transformer.ln_f", "lm_head"}


def test_logits_are_a_module_too(gpt2: LoadedModel) -> None:
    with forward_capture.ActivationCapture(
        gpt2, hooks.parse_hooks(["lm_head", "blocks.0.hook_resid_pre"], gpt2.description)
    ) as capture:
        found = capture.run(IDS)
    with torch.inference_mode():
        assert torch.equal(found["lm_head"], gpt2.module(IDS, use_cache=False).logits)


def test_any_module_by_its_path(gpt2: LoadedModel) -> None:
    with forward_capture.ActivationCapture(
        gpt2, hooks.parse_hooks(["transformer.h.1.mlp.act"], gpt2.description)
    ) as capture:
        assert capture.run(IDS)["transformer.h.1.mlp.act"].shape == (1, 4, 128)


def test_modules_without_a_vector_per_token(gpt2: LoadedModel) -> None:
    with (
        forward_capture.ActivationCapture(gpt2, hooks.parse_hooks(["transformer.wpe"], gpt2.description)) as capture,
        pytest.raises(errors.InvalidArgument) as caught,
    ):
        capture.run(torch.tensor([[5, 6], [7, 8]]))
    assert caught.value.reason == "HOOK_NOT_FOUND"
    assert "transformer.wpe" in words(caught.value.message)


def test_hooks_are_gone_afterwards(gpt2: LoadedModel) -> None:
    def hooked() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in gpt2.module.modules())

    before = hooked()
    with forward_capture.ActivationCapture(
        gpt2, hooks.parse_hooks(["blocks.0.hook_resid_post", "hook_embed"], gpt2.description)
    ):
        assert hooked() == before + 2
    assert hooked() == before


def test_the_model_is_unchanged_between_runs(gpt2: LoadedModel) -> None:
    names = hooks.parse_hooks(["blocks.0.hook_resid_post"], gpt2.description)
    with torch.no_grad():
        expected = gpt2.module(IDS).logits
    with (
        forward_capture.ActivationCapture(gpt2, names) as outer,
        forward_capture.ActivationCapture(gpt2, names) as inner,
    ):
        first = inner.run(IDS)["blocks.0.hook_resid_post"]
        with torch.no_grad():
            assert torch.equal(gpt2.module(IDS).logits, expected)
        assert torch.equal(outer.run(IDS)["blocks.0.hook_resid_post"], first)
