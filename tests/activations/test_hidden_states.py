"""What is captured is what the model itself calls its hidden states: bit for bit, where the same kernels run."""

import pytest
import torch

from services.activations import architectures, forward_capture, hooks
from tests.activations import tiny_models
from tests.activations.conftest import Loader


def test_every_family_is_tried() -> None:
    assert set(tiny_models.CONFIGURATIONS) == set(architectures.NAMES)


@pytest.mark.parametrize("kind", architectures.NAMES)
def test_residual_stream(kind: str, loaded: Loader) -> None:
    model = loaded(kind)
    ids = torch.tensor(tiny_models.rows(4, 11, 11))
    layers = range(model.description.n_layers)
    names = ["hook_embed"] + [f"blocks.{layer}.hook_resid_{side}" for layer in layers for side in ("pre", "post")]
    with forward_capture.ActivationCapture(model, hooks.parse_hooks(names, model.description)) as capture:
        found = capture.run(ids)
    expected = tiny_models.hidden_states(model, ids)
    with torch.no_grad():
        embedded = model.module.get_input_embeddings()(ids)
        as_called_by_default = model.module(ids, output_hidden_states=True).hidden_states
    assert torch.equal(found["hook_embed"], embedded)
    for layer in layers:
        assert torch.equal(found[f"blocks.{layer}.hook_resid_pre"], expected[layer])
        # The last of the hidden states has gone through the model's final norm, unless blocks end with one.
        if layer < layers[-1] or "hook_normalized_resid_post" in model.description.family.points:
            assert torch.equal(found[f"blocks.{layer}.hook_resid_post"], expected[layer + 1])
    torch.testing.assert_close(as_called_by_default, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", architectures.NAMES)
def test_parts_add_up(kind: str, loaded: Loader) -> None:
    """The residual stream is what attention and MLP add to it, behind the last layer too: before the final norm."""
    model = loaded(kind)
    names = [f"blocks.2.{point}" for point in tiny_models.points(model, 2)]
    parsed = hooks.parse_hooks(names, model.description)
    with forward_capture.ActivationCapture(model, parsed) as capture:
        seen = capture.run(torch.tensor([[5, 6, 7]]))
    assert {name: value.shape for name, value in seen.items()} == {hook.name: (1, 3, hook.width) for hook in parsed}
    found = {name.removeprefix("blocks.2."): value for name, value in seen.items()}
    middle = found["hook_resid_pre"] + found["hook_attn_out"]
    if "hook_resid_mid" in found:
        torch.testing.assert_close(found["hook_resid_mid"], middle)
    if "hook_normalized_resid_post" in found:
        assert torch.equal(found["hook_resid_post"], found["hook_normalized_resid_post"])
    else:
        torch.testing.assert_close(found["hook_resid_post"], middle + found["hook_mlp_out"])


def test_post_norm_opt(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The one size of OPT that normalises after each addition, as BERT does."""
    folder = tiny_models.save("opt", tmp_path_factory.mktemp("opt"), do_layer_norm_before=False)
    model = tiny_models.models.load(folder, attention="eager")
    names = [f"blocks.0.hook_{point}" for point in ("resid_pre", "attn_out", "resid_mid", "resid_post")]
    ids = torch.tensor([[5, 6, 7]])
    with forward_capture.ActivationCapture(model, hooks.parse_hooks(names, model.description)) as capture:
        before, attention, middle, after = capture.run(ids).values()
    torch.testing.assert_close(middle, before + attention)
    assert torch.equal(after, tiny_models.hidden_states(model, ids)[1])


def test_sequential_neox(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without parallel residuals there is a middle."""
    folder = tiny_models.save("gpt_neox", tmp_path_factory.mktemp("neox"), use_parallel_residual=False)
    model = tiny_models.models.load(folder, attention="eager")
    names = [f"blocks.2.hook_{point}" for point in ("resid_mid", "mlp_out", "resid_post")]
    with forward_capture.ActivationCapture(model, hooks.parse_hooks(names, model.description)) as capture:
        middle, mlp, after = capture.run(torch.tensor([[5, 6, 7]])).values()
    torch.testing.assert_close(after, middle + mlp)
