"""Names of hooks are checked without weights, and what is wrong with them is said."""

import pytest
import torch

from polytok import errors
from services.activations import architectures, forward_capture, hook_names, hooks
from services.activations.models import LoadedModel
from tests.activations import tiny_models
from tests.activations.conftest import Loader
from tests.support.messages import words


def test_where_names_lead(gpt2: LoadedModel) -> None:
    names = ["blocks.2.hook_resid_post", "blocks.0.attn.hook_z", "hook_embed", "transformer.h.1.mlp"]
    assert hooks.parse_hooks(names, gpt2.description) == (
        hooks.Hook("blocks.2.hook_resid_post", "transformer.h.2", "output", 2, 32),
        hooks.Hook("blocks.0.attn.hook_z", "transformer.h.0.attn.c_proj", "input", 0, 32),
        hooks.Hook("hook_embed", "transformer.wte", "output", None, 32),
        hooks.Hook("transformer.h.1.mlp", "transformer.h.1.mlp", "output", 1, 0),
    )


def test_widths(loaded: Loader) -> None:
    description = loaded("qwen3").description
    found = hooks.parse_hooks(
        ["blocks.0.attn.hook_z", "blocks.0.mlp.hook_post", "blocks.0.hook_resid_mid"], description
    )
    assert [hook.width for hook in found] == [64, 48, 32]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("blocks.3.hook_resid_post", {"layer", "3", "0", "2"}),
        ("blocks.0.hook_resid_past", {"hook_resid_past", "attn.hook_z", "hook_attn_out"}),
        ("blocks.1.hook_resid_past", {"mean", "blocks.1.hook_resid_post"}),
        ("hook_resid_post", {"mean", "blocks.0.hook_resid_post"}),
        ("transformer.h.1.mpl", {"mean", "transformer.h.1.mlp"}),
        ("hook_embd", {"mean", "hook_embed"}),
        ("blocks.*.hook_resid_post", {"hook", "module"}),
        ("blocks.-1.hook_resid_post", {"hook", "module", "transformer.h.0"}),
        ("transformer.h.7", {"layer", "7", "0", "2"}),
        ("transformer.g.1", {"module", "blocks.0.hook_resid_post", "transformer.h.0"}),
        ("", {"hook", "module"}),
    ],
)
def test_wrong_names(gpt2: LoadedModel, name: str, named: set[str]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        hooks.parse_hooks([name, "blocks.0.hook_resid_pre"], gpt2.description)
    assert {name, "gpt2", *named} <= words(caught.value.message)
    assert caught.value.reason == "HOOK_NOT_FOUND"
    assert [violation.field for violation in caught.value.violations] == ["hook_names"]
    assert caught.value.metadata == {"hook_names": f"{name},blocks.0.hook_resid_pre"}


def test_several_wrong_names(gpt2: LoadedModel) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        hooks.parse_hooks(["blocks.9.hook_resid_pre", "nothing"], gpt2.description)
    assert len(caught.value.violations) == 2
    for name, violation in zip(("blocks.9.hook_resid_pre", "nothing"), caught.value.violations, strict=True):
        assert name in words(violation.description)
        assert name in words(caught.value.message)


def test_parallel_blocks_have_no_middle(loaded: Loader) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        hooks.parse_hooks(["blocks.0.hook_resid_mid"], loaded("phi").description)
    assert caught.value.reason == "HOOK_NOT_FOUND"
    assert {"blocks.0.hook_resid_mid", "phi", "hook_resid_mid", "hook_resid_post"} <= words(caught.value.message)


@pytest.mark.parametrize(
    ("kind", "sparse"),
    [
        ("deepseek_v2", {1, 2}),
        ("deepseek_v3", {1, 2}),
        ("gpt_oss", {0, 1, 2}),
        ("llama", set()),
        ("mixtral", {0, 1, 2}),
        ("olmoe", {0, 1, 2}),
        ("qwen2_moe", {1}),
        ("qwen3_moe", {1, 2}),
    ],
)
def test_a_mixture_of_experts_has_no_inner_layer(kind: str, sparse: set[int], loaded: Loader) -> None:
    model = loaded(kind)
    description = model.description
    assert description.family.sparse == sparse
    # Which are those where the model has no projection of one MLP.
    blocks = model.base.get_submodule(description.family.blocks)
    assert sparse == {layer for layer, block in enumerate(blocks) if not hasattr(block.mlp, "down_proj")}
    dense = [f"blocks.{layer}.mlp.hook_post" for layer in range(3) if layer not in sparse]
    if dense:
        assert {hook.width for hook in hooks.parse_hooks(dense, description)} == {48}
    for layer in sparse:
        with pytest.raises(errors.InvalidArgument) as caught:
            hooks.parse_hooks([f"blocks.{layer}.mlp.hook_post"], description)
        assert caught.value.reason == "HOOK_NOT_FOUND"
        named = {f"blocks.{layer}.mlp.hook_post", str(layer), "experts", f"blocks.{layer}.hook_mlp_out"}
        assert named <= words(caught.value.message)
    message = hook_names.find_problem("blocks.*.mlp.hook_post", hooks.describe_structure(description))
    assert ("experts" in words(message)) is bool(sparse)


def test_routers_are_modules(loaded: Loader) -> None:
    model = loaded("mixtral")
    with forward_capture.ActivationCapture(
        model, hooks.parse_hooks(["model.layers.1.mlp.gate"], model.description)
    ) as capture:
        # What the router makes of each of four tokens, for four experts.
        assert capture.run(torch.tensor([[5, 6, 7, 8]]))["model.layers.1.mlp.gate"].shape == (1, 4, 4)


def test_none_is_refused(gpt2: LoadedModel) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        hooks.parse_hooks([], gpt2.description)
    assert caught.value.reason == "HOOK_NOT_FOUND"
    assert [violation.field for violation in caught.value.violations] == ["hook_names"]


@pytest.mark.parametrize("kind", tiny_models.CONFIGURATIONS)
def test_every_model_has_the_common_hooks(kind: str) -> None:
    assert set(architectures.find_family(tiny_models.CONFIGURATIONS[kind]()).points) > hook_names.COMMON


def test_common_hooks() -> None:
    right = ("hook_embed", "blocks.1.hook_resid_post", "blocks.*.attn.hook_z")
    wrong = ("blocks.2.hook_resid_post", "blocks.0.mlp.hook_post", "hook_resid_post", "transformer.h.0", "")
    assert [hook_names.is_common(name, 2) for name in (*right, *wrong)] == [True] * 3 + [False] * 5
    assert not hook_names.is_common("blocks.*.hook_mlp_out", 0)
