"""What is captured is what the model itself calls its hidden states, bit for bit."""

import pathlib

import pytest
import torch

from services.activations import capturing, families, hooks
from tests.activations import material


def test_every_family_is_tried() -> None:
    assert set(material.CONFIGURATIONS) == set(families.NAMES)


@pytest.mark.parametrize("kind", families.NAMES)
def test_residual_stream(kind: str, tmp_path: pathlib.Path) -> None:
    model = material.load(kind, tmp_path)
    ids = torch.tensor(material.rows(4, 11, 11))
    layers = range(model.description.n_layers)
    names = [f"blocks.{layer}.hook_resid_{side}" for layer in layers for side in ("pre", "post")]
    with capturing.Capture(model, hooks.parse(names, model.description)) as capture:
        found = capture.run(ids)
    with torch.no_grad():
        expected = model.module(ids, output_hidden_states=True).hidden_states
    for layer in layers:
        assert torch.equal(found[f"blocks.{layer}.hook_resid_pre"], expected[layer])
        if layer < layers[-1]:
            assert torch.equal(found[f"blocks.{layer}.hook_resid_post"], expected[layer + 1])


@pytest.mark.parametrize("kind", families.NAMES)
def test_parts_add_up(kind: str, tmp_path: pathlib.Path) -> None:
    """The residual stream is what attention and MLP add to it, of the last layer too: before the final norm."""
    model = material.load(kind, tmp_path)
    points = model.description.family.points
    names = [f"blocks.2.{point}" for point in points]
    parsed = hooks.parse(names, model.description)
    with capturing.Capture(model, parsed) as capture:
        found = {
            name.removeprefix("blocks.2."): value for name, value in capture.run(torch.tensor([[5, 6, 7]])).items()
        }
    assert {name: value.shape[-1] for name, value in found.items()} == {
        hook.name.removeprefix("blocks.2."): hook.width for hook in parsed
    }
    if "hook_resid_mid" in points:
        torch.testing.assert_close(found["hook_resid_mid"], found["hook_resid_pre"] + found["hook_attn_out"])
        start = found["hook_resid_mid"]
    else:
        start = found["hook_resid_pre"] + found["hook_attn_out"]
    if not model.description.masked:
        torch.testing.assert_close(found["hook_resid_post"], start + found["hook_mlp_out"])
    else:
        assert torch.equal(found["hook_resid_post"], found["hook_normalized_resid_post"])
