"""The quicker way through an activation function gives the very same numbers."""

from collections.abc import Iterator

import pytest
import torch
import transformers
from transformers.activations import NewGELUActivation

from services.activations import forward_override, gelu


def _inputs(dtype: torch.dtype) -> torch.Tensor:
    # No multiple of a piece, or of what a processor takes at once; numbers of all sizes, and what is none.
    torch.manual_seed(0)
    values = torch.randn(3, 7, 50_021) * torch.logspace(-6, 2, 50_021)
    values[0, 0, :4] = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0])
    return values.to(dtype)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads that torch computes with."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_bits_are_the_same(dtype: torch.dtype) -> None:
    module, values = NewGELUActivation(), _inputs(dtype)
    before = values.clone()
    with torch.inference_mode():
        expected = module(values)
        with forward_override.override_forwards(gelu.find_chunked_forwards(module)):
            found = module(values)
    whole = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(found.view(whole), expected.view(whole))
    assert torch.equal(values.view(whole), before.view(whole))


def test_gradients() -> None:
    module, values = NewGELUActivation(), torch.randn(600_000, requires_grad=True)
    with forward_override.override_forwards(gelu.find_chunked_forwards(module)):
        module(values).sum().backward()
    assert values.grad is not None
    assert bool(torch.isfinite(values.grad).all())


@pytest.mark.usefixtures("threads")
def test_hidden_states_of_a_wide_model() -> None:
    configuration = transformers.GPT2Config(
        n_layer=2, n_embd=128, n_head=4, vocab_size=97, n_positions=512, bos_token_id=0, eos_token_id=1
    )
    torch.manual_seed(0)
    model = transformers.GPT2Model(configuration).eval()
    ids = torch.randint(0, 97, (4, 300))
    with torch.inference_mode():
        expected = model(input_ids=ids).last_hidden_state
        changed = gelu.find_chunked_forwards(model)
        with forward_override.override_forwards(changed):
            assert torch.equal(model(input_ids=ids).last_hidden_state, expected)
    assert len(changed) == 2
    assert all("forward" not in module.__dict__ for module in model.modules())
