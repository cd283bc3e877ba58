"""What replaces a hook is seen by everything behind it and by nothing else, in every family.

TransformerLens itself is compared in test_transformer_lens.py where it computes a family on its own. Here the oracle
is arithmetic that holds in any transformer: the residual stream is a sum, so that a vector added to it is the same
vector added to what was added last.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from services.activations import hooks, models
from services.trainer.sae.evaluation import splice
from tests.activations import tiny_models
from tests.activations.conftest import Loader

IDS, OTHERS = (torch.tensor(tiny_models.rows(2, 5, 5, seed)) for seed in (0, 1))
LAYERS = (0, 2)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "opt post-norm": ("opt", {"do_layer_norm_before": False}),
}
POST_NORM = frozenset({"bert", "distilbert", "roberta", "xlm-roberta", "opt post-norm"})


@pytest.fixture(params=[*tiny_models.CONFIGURATIONS, *VARIANTS])
def named(request: pytest.FixtureRequest, tmp_path: pathlib.Path, loaded: Loader) -> tuple[str, models.LoadedModel]:
    if request.param not in VARIANTS:
        return request.param, loaded(request.param)
    kind, changes = VARIANTS[request.param]
    return request.param, models.load(tiny_models.save(kind, tmp_path, **changes), attention="eager")


Run = Callable[..., torch.Tensor]


def runner(model: models.LoadedModel) -> Run:
    def run(name: str, replace: splice.Replace, ids: torch.Tensor = IDS) -> torch.Tensor:
        (hook,) = hooks.parse_hooks([name], model.description)
        with torch.no_grad(), splice.replace_activations(model, hook, torch.ones_like(ids, dtype=torch.bool), replace):
            return model.module(input_ids=ids).logits  # type: ignore[no-any-return]

    return run


def same_shifts(variant: str, model: models.LoadedModel) -> Iterator[tuple[str, str]]:
    """Hooks at which adding a vector is adding it at the other."""
    for layer in LAYERS:
        block, points = f"blocks.{layer}.", model.description.family.points
        yield block + "hook_attn_out", block + ("hook_resid_mid" if "hook_resid_mid" in points else "hook_mlp_out")
        if variant not in POST_NORM:
            yield block + "hook_mlp_out", block + "hook_resid_post"
        if "hook_normalized_resid_post" in points:
            yield block + "hook_resid_post", block + "hook_normalized_resid_post"
    yield "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"


def test_replaced_values_reach_later_layers_only(named: tuple[str, models.LoadedModel]) -> None:
    variant, model = named
    run, shift = runner(model), 2 * torch.randn(model.description.d_model, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        clean = model.module(input_ids=IDS).logits
    for one, other in same_shifts(variant, model):
        shifted = run(one, lambda x: x + shift)
        torch.testing.assert_close(run(other, lambda x: x + shift), shifted, rtol=1e-3, atol=1e-3, msg=_of(other))
        assert (shifted - clean).abs().max() > 1e-2, one
    for layer in LAYERS:
        for point in tiny_models.points(model, layer):
            name = f"blocks.{layer}.{point}"
            torch.testing.assert_close(run(name, torch.clone), clean, rtol=1e-4, atol=1e-4, msg=_of(name))
            if "resid" in point:
                # The stream is all that comes from before it.
                torch.testing.assert_close(run(name, torch.zeros_like, OTHERS), run(name, torch.zeros_like))
            elif model.description.family.points[point].side == "input":
                _compare_behind(run, model, name)
    _compare_embedding(run, model, shift)


def _of(name: str) -> Callable[[str], str]:
    return lambda text: f"{name}: {text}"


def _compare_behind(run: Run, model: models.LoadedModel, name: str) -> None:
    """What one module reads alone is replaced as what the module makes of it is."""
    (hook,) = hooks.parse_hooks([name], model.description)
    module = model.module.get_submodule(hook.path)
    expected = run(hook.path, lambda y: module.forward(torch.ones(len(y), hook.width)))
    torch.testing.assert_close(run(name, torch.ones_like), expected, rtol=1e-3, atol=1e-3, msg=_of(name))


def _compare_embedding(run: Run, model: models.LoadedModel, shift: torch.Tensor) -> None:
    """A vector added to embeddings is the same vector added to each row of their table."""
    table = model.base.get_submodule(model.description.family.embedding)
    scale = float(getattr(table, "scalar_embed_scale", 1.0))
    shifted = run("hook_embed", lambda x: x + shift)
    weight = table.weight
    # Another table than the head's, which may share it.
    table.weight = torch.nn.Parameter(weight + shift / scale, requires_grad=False)
    try:
        with torch.no_grad():
            torch.testing.assert_close(shifted, model.module(input_ids=IDS).logits, rtol=1e-3, atol=1e-3)
    finally:
        table.weight = weight


def test_a_large_stream_in_bfloat16(tmp_path: pathlib.Path) -> None:
    """As there would be if the difference were added behind: 3000 and its neighbours are 16 apart in bfloat16."""
    model = models.load(tiny_models.save("gpt2", tmp_path), dtype="bfloat16", attention="eager")
    with torch.no_grad():
        model.module.transformer.h[0].mlp.c_proj.bias += 3000
    run = runner(model)
    replaced = [run("blocks.1.hook_resid_mid", torch.zeros_like, ids) for ids in (IDS, OTHERS)]
    torch.testing.assert_close(replaced[0], replaced[1], rtol=0, atol=0.05)
