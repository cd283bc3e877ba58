"""Figures on held-out sequences equal formulas written out, and sae-lens's where its own agree."""

import copy
import dataclasses
import math
import pathlib
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import torch
import transformers
from google.protobuf import json_format

from polytok.trainer.v1 import metrics_pb2
from services.activations import hooks, models
from services.activations.token_selection import TokenSelection
from services.trainer.sae import architectures, export, normalization, reports
from services.trainer.sae.data.dataset import TokenSequences
from services.trainer.sae.data.live import sequences
from services.trainer.sae.evaluation import evaluator, reconstruction, splice
from services.trainer.sae.steps import factory
from services.trainer.worker import report_sender
from tests.trainer import gaussian
from tests.trainer import models as small


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> models.LoadedModel:
    return models.load(small.save(tmp_path_factory.mktemp("model")))


def drawn(n: int = 500, d: int = 16, d_sae: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Targets far from the origin, latents, outputs."""
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(n, d, generator=generator) + 1000
    latents = torch.relu(torch.randn(n, d_sae, generator=generator) - 1)
    latents[:, 5] = 0
    latents[:, 6] = 1
    return y, latents, y * 0.9 + torch.randn(n, d, generator=generator)


def figures(y: torch.Tensor, latents: torch.Tensor, z: torch.Tensor, block: int) -> dict[str, Any]:
    sums = reconstruction.Reconstruction(latents.shape[1])
    for parts in zip(y.split(block), latents.split(block), z.split(block), strict=True):
        sums.add(*parts)
    return sums.figures()


def test_reconstruction_equals_the_formulas() -> None:
    y, latents, z = drawn()
    found = figures(y, latents, z, 64)
    yd, zd, ld = (each.double().numpy() for each in (y, z, latents))
    residual, spread = ((yd - zd) ** 2).sum(1), ((yd - yd.mean(0)) ** 2).sum(1)
    expected = {
        "samples": 500,
        "explained_variance": 1 - residual.mean() / spread.mean(),
        "mse": residual.mean(),
        "variance": spread.mean(),
        "l0": (ld != 0).sum(1).mean(),
        "l1": ld.sum(1).mean(),
        "cosine_similarity": ((yd * zd).sum(1) / np.linalg.norm(yd, axis=1) / np.linalg.norm(zd, axis=1)).mean(),
        "l2_ratio": (np.linalg.norm(zd, axis=1) / np.linalg.norm(yd, axis=1)).mean(),
        "shrinkage": 1 - (np.linalg.norm(zd, axis=1) / np.linalg.norm(yd, axis=1)).mean(),
        "relative_reconstruction_bias": (zd**2).sum(1).mean() / (yd * zd).sum(1).mean(),
        "dead_latents": 1,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_blocks_do_not_matter() -> None:
    y, latents, z = drawn()
    one, many = figures(y, latents, z, 500), figures(y, latents, z, 7)
    for name in ("firing_frequency", "undefined", "caveats"):
        assert one.pop(name) == many.pop(name)
    assert one == pytest.approx(many, rel=1e-9)


def test_the_mean_of_ratios_would_be_another_number() -> None:
    """What published tools reported as explained variance differs; the one here is of sums, not of vectors."""
    y, latents, z = drawn()
    y, z = y - 1000, z - 1000
    per_vector = 1 - (y - z).square().sum(1) / (y - y.mean(0)).square().sum(1)
    assert abs(float(per_vector.mean()) - figures(y, latents, z, 64)["explained_variance"]) > 0.05


def test_a_transcoders_target_need_not_be_its_input() -> None:
    y, latents, _ = drawn()
    assert figures(y, latents, y, 64)["explained_variance"] == 1


def test_constant_activations_have_no_explained_variance() -> None:
    y = torch.ones(10, 3)
    found = figures(y, torch.zeros(10, 4), torch.zeros(10, 3), 5)
    assert found["explained_variance"] is found["relative_reconstruction_bias"] is None
    assert found["undefined"] == {
        "explained_variance": "the variance of the held-out activations is 0, which is 0 within rounding",
        "relative_reconstruction_bias": "E(y.z) is 0, which is 0 within rounding",
    }
    assert found["cosine_similarity"] == 0
    assert found["dead_latents"] == 4


def test_sparse_latents_are_the_same() -> None:
    y, latents, z = drawn()
    sums = reconstruction.Reconstruction(32)
    sums.add(y, latents.to_sparse(), z)
    assert sums.figures() == figures(y, latents, z, 500)


def test_firing_frequencies_are_counted_in_bins() -> None:
    found = reconstruction.histogram(torch.tensor([0.0, 0.0, 1.0, 0.1, 0.09, 1e-12, 0.99], dtype=torch.float64))
    edges, counts = found["log10_edges"], found["counts"]
    assert (edges[0], edges[-1], len(edges)) == (-8, 0, len(counts) + 1)
    assert found["never"] == 2
    assert {edges[index]: count for index, count in enumerate(counts) if count} == {
        -8.0: 1,
        -1.25: 1,
        -1.0: 1,
        -0.25: 2,
    }


def known(model: models.LoadedModel) -> datasets.Dataset:
    """Texts that the model knows: at each token it says that the next one is what comes next."""
    drawn = small.tokens(9).to_dict()
    for row, mask in zip(drawn["input_ids"], drawn["attention_mask"], strict=True):
        for end in range(1, sum(mask)):
            with torch.no_grad():
                row[end] = int(model.module(input_ids=torch.tensor([row[:end]])).logits[0, -1].argmax())
    return datasets.Dataset.from_dict(drawn)


def rows(model: models.LoadedModel, excluded: tuple[int, ...], texts: datasets.Dataset) -> list[TokenSequences]:
    return list(sequences(texts, TokenSelection(excluded_token_ids=excluded), model.device))


def expected_losses(
    model: models.LoadedModel, replaced: dict[str, Any], excluded: tuple[int, ...], texts: datasets.Dataset
) -> dict[str, tuple[float, float]]:
    """Cross-entropy and KL written out: row by row without padding, the block's output replaced by hand."""
    entropies: dict[str, list[float]] = {name: [] for name in replaced}
    divergences: dict[str, list[float]] = {name: [] for name in replaced}
    for row in texts:
        ids = [token for token, seen in zip(row["input_ids"], row["attention_mask"], strict=True) if seen]
        kept = [position for position, token in enumerate(ids) if token not in excluded]
        logs = {}
        for name, replace in replaced.items():

            def hook(_: Any, __: Any, output: Any, replace: Any = replace, kept: list[int] = kept) -> Any:
                hidden = (output[0] if isinstance(output, tuple) else output).clone()
                hidden[0, kept] = replace(hidden[0, kept])
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            handle = model.module.transformer.h[1].register_forward_hook(hook)
            with torch.no_grad():
                logits = model.module(input_ids=torch.tensor([ids])).logits[0]
            handle.remove()
            logs[name] = torch.log_softmax(logits.double(), -1)
        for name, log in logs.items():
            entropies[name] += [-float(log[p, ids[p + 1]]) for p in kept if p + 1 < len(ids)]
            clean = logs["clean"]
            divergences[name] += [float((clean[p].exp() * (clean[p] - log[p])).sum()) for p in kept]
    return {name: (float(np.mean(entropies[name])), float(np.mean(divergences[name]))) for name in replaced}


@pytest.mark.parametrize("excluded", [(), (small.EXCLUDED,)])
def test_splicing_equals_the_formulas(model: models.LoadedModel, excluded: tuple[int, ...]) -> None:
    mean, texts = torch.linspace(-1, 1, small.D_IN), known(model)
    (hook,) = hooks.parse_hooks([small.HOOK], model.description)
    sums = splice.SpliceEvaluator(model, hook, {"half": lambda x: x / 2, "same": lambda x: x}, mean)
    for each in rows(model, excluded, texts):
        sums.add(each)
    expected = expected_losses(
        model,
        {
            "clean": lambda x: x,
            "half": lambda x: x / 2,
            "zero": torch.zeros_like,
            "mean": mean.expand_as,
        },
        excluded,
        texts,
    )
    found = sums.figures("half")
    h = {name: entropy for name, (entropy, _) in expected.items()}
    assert found.pop("undefined") == found.pop("caveats") == {}
    assert found == pytest.approx(
        {
            "tokens": sum(int(each.kept.sum()) for each in rows(model, excluded, texts)),
            "cross_entropy_chance": math.log(small.VOCABULARY),
            "cross_entropy_clean": h["clean"],
            "cross_entropy_sae": h["half"],
            "cross_entropy_zero_ablation": h["zero"],
            "cross_entropy_mean_ablation": h["mean"],
            "cross_entropy_recovered": (h["zero"] - h["half"]) / (h["zero"] - h["clean"]),
            "cross_entropy_recovered_mean_ablation": (h["mean"] - h["half"]) / (h["mean"] - h["clean"]),
            "kl_divergence": expected["half"][1],
            "kl_divergence_zero_ablation": expected["zero"][1],
            "kl_divergence_mean_ablation": expected["mean"][1],
            "kl_recovered": 1 - expected["half"][1] / expected["zero"][1],
        },
        rel=1e-4,
    )
    whole = sums.figures("same")
    assert whole["cross_entropy_recovered"] == pytest.approx(1, abs=1e-6)
    assert whole["kl_divergence"] == pytest.approx(0, abs=1e-6)


def spliced(model: models.LoadedModel, texts: datasets.Dataset, **reconstructs: splice.Replace) -> dict[str, Any]:
    """Return the figures of the first of some autoencoders."""
    (hook,) = hooks.parse_hooks([small.HOOK], model.description)
    sums = splice.SpliceEvaluator(model, hook, reconstructs, torch.zeros(small.D_IN))
    for each in rows(model, (), texts):
        sums.add(each)
    return sums.figures(next(iter(reconstructs)))


def test_recovered_is_undefined_by_chance(tmp_path: pathlib.Path) -> None:
    """Weights as GPT-2 starts with: its cross-entropy is ln of its vocabulary."""
    config = transformers.GPT2Config(vocab_size=48, n_positions=64, n_embd=16, n_layer=3, n_head=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    found = spliced(models.load(tmp_path), small.tokens(60), half=lambda x: x / 2)
    assert found["cross_entropy_clean"] == pytest.approx(math.log(48), rel=splice.CHANCE)
    for name in ("cross_entropy_recovered", "cross_entropy_recovered_mean_ablation"):
        assert found[name] is None
        assert found["undefined"][name].startswith("the model predicts by chance: its cross-entropy is 3.8")
    # What the model says is replaced in any case, whether it is right or not.
    assert 0 < found["kl_recovered"] < 1


def test_recovered_is_undefined_where_ablation_changes_nothing(model: models.LoadedModel) -> None:
    found = spliced(model, small.tokens(9), half=lambda x: x / 2)
    assert found["cross_entropy_recovered"] is None
    assert "with a standard error of" in found["undefined"]["cross_entropy_recovered"]
    # Nothing passes at the hook: zero ablation is what the model does.
    deaf = dataclasses.replace(model, module=copy.deepcopy(model.module))
    for parameter in deaf.module.transformer.ln_f.parameters():
        parameter.data.zero_()
    found = spliced(deaf, small.tokens(9), half=lambda x: x / 2)
    assert found["undefined"]["kl_recovered"] == "the KL divergence of zero ablation is 0, which is 0 within rounding"


def test_recovered_below_chance_is_defined_and_warned_of(model: models.LoadedModel) -> None:
    """The model's most unlikely tokens: zero ablation makes it better, well beyond the standard error."""
    texts = known(dataclasses.replace(model, module=lambda **ids: Logits(-model.module(**ids).logits)))
    found = spliced(model, texts, half=lambda x: x / 2)
    assert math.isfinite(found["cross_entropy_recovered"])
    assert found["caveats"]["cross_entropy_recovered"].startswith("zero ablation lowers the cross-entropy, by ")


class Logits(NamedTuple):
    logits: torch.Tensor


def test_nothing_to_score_is_said(model: models.LoadedModel) -> None:
    found = spliced(
        model, datasets.Dataset.from_dict({"input_ids": [[3], [4]], "attention_mask": [[1], [1]]}), same=abs
    )
    assert found["cross_entropy_clean"] is None
    assert found["undefined"].keys() == set(splice.NAMES)
    empty = reconstruction.Reconstruction(4).figures()
    assert empty["samples"] == 0
    assert empty["undefined"]["l0"] == "no held-out token is trained on"


def test_overflow_in_the_model_is_said(model: models.LoadedModel) -> None:
    found = spliced(model, known(model), bad=lambda x: x / 0)
    assert found["undefined"]["cross_entropy_sae"].startswith("it is NaN or infinite. The model runs as float32,")
    assert found["undefined"]["kl_divergence"] == found["undefined"]["cross_entropy_sae"]
    assert found["undefined"]["cross_entropy_recovered"] == "its numerator is NaN or infinite"
    assert math.isfinite(found["cross_entropy_clean"])


def test_overflow_of_the_model_itself_is_not_called_chance(tmp_path: pathlib.Path) -> None:
    half = models.load(small.save(tmp_path), dtype="float16")
    half.module.transformer.ln_f.weight.data.fill_(6e4)
    found = spliced(half, small.tokens(9), half=lambda x: x / 2)
    assert "Run the model as float32 or bfloat16" in found["undefined"]["cross_entropy_clean"]
    assert found["undefined"]["cross_entropy_recovered"] == "the model's own cross-entropy is NaN or infinite"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_variance_that_is_rounding_explains_nothing(dtype: torch.dtype) -> None:
    y = torch.full((100, 4), 100.0, dtype=dtype)
    y[::2] += 100 * torch.finfo(dtype).eps / 2
    found = figures(y, torch.zeros(100, 4), y, 50)
    assert found["explained_variance"] is None
    assert figures(y * torch.linspace(1, 2, 100)[:, None], torch.zeros(100, 4), y, 50)["explained_variance"] is not None


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z"])
def test_other_hooks_are_replaced_where_they_are(model: models.LoadedModel, name: str) -> None:
    (hook,) = hooks.parse_hooks([name], model.description)
    sums = splice.SpliceEvaluator(model, hook, {"same": lambda x: x, "zero": torch.zeros_like}, torch.zeros(small.D_IN))
    for each in rows(model, (), small.tokens(9)):
        sums.add(each)
    assert sums.figures("same")["kl_divergence"] == pytest.approx(0, abs=1e-6)
    assert sums.figures("zero")["kl_divergence"] == sums.figures("zero")["kl_divergence_zero_ablation"] > 1e-3


def test_the_model_is_as_before(model: models.LoadedModel) -> None:
    (hook,) = hooks.parse_hooks([small.HOOK], model.description)
    ids = torch.arange(8)[None]
    before = model.module(input_ids=ids).logits
    with splice.replace_activations(model, hook, torch.ones(1, 8, dtype=torch.bool), torch.zeros_like):
        assert not torch.equal(model.module(input_ids=ids).logits, before)
    assert torch.equal(model.module(input_ids=ids).logits, before)


def test_an_evaluation_of_a_training_says_what_it_is(model: models.LoadedModel, tmp_path: pathlib.Path) -> None:
    data = small.data(small.save(tmp_path))
    planned = gaussian.training(gaussian.sae("batchtopk"), hook=small.HOOK)
    sae = export.inference(factory.create_step(planned.saes[0], planned).sae, normalization.Normalization())
    one = evaluator.Autoencoder(small.HOOK, 32, sae.encode, sae.decode)
    found = evaluator.evaluate(data, {"one": one, "two": one})
    assert found["one"] == found["two"]
    assert found["one"].keys() >= {*reconstruction.FORMULAS, *splice.FORMULAS, "formulas", "held_out"}
    assert found["one"]["formulas"]["explained_variance"].startswith("1 - E|y - z|^2 / E|y - E y|^2, float64")
    assert "last 4 rows" in found["one"]["held_out"]["held_out"]
    kept = sum(int(each.kept.sum()) for each in data.splice_target(small.HOOK).sequences())  # type: ignore[union-attr]
    assert found["one"]["samples"] == found["one"]["tokens"] == kept
    assert all(value is None or math.isfinite(value) for value in found["one"].values() if isinstance(value, float))


def test_an_undefined_figure_is_nan_with_a_reason_in_the_record() -> None:
    found = reconstruction.Reconstruction(4).figures() | splice.not_evaluated("no model")
    row = reports.EvaluationRow(sae="s", step=1, samples=1, figures=found)
    message = report_sender.evaluation_to_message(row)
    assert message.undefined["kl_recovered"] == "no model"
    assert math.isnan(message.figures["kl_recovered"])
    # As the owner keeps it.
    kept = json_format.ParseDict(json_format.MessageToDict(message), metrics_pb2.EvaluationFigures())
    assert str(kept) == str(message)


def lens_model(model: models.LoadedModel) -> Any:
    """Return the same weights as TransformerLens has them."""
    import transformer_lens
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    config = transformer_lens.HookedTransformerConfig(
        n_layers=3, d_model=16, n_heads=2, d_head=8, d_mlp=64, n_ctx=64, d_vocab=48, act_fn="gelu_new",
        normalization_type="LN", eps=1e-5, device="cpu",
    )  # fmt: skip
    found = transformer_lens.HookedTransformer(config)
    found.load_and_process_state_dict(
        convert_gpt2_weights(model.module, config), fold_ln=False, center_writing_weights=False, center_unembed=False
    )
    return found


@pytest.mark.filterwarnings("ignore")
def test_splicing_equals_sae_lens(model: models.LoadedModel) -> None:
    architectures.import_sae_lens()
    import sae_lens.evals
    from sae_lens.training.activation_scaler import ActivationScaler

    planned = gaussian.training(gaussian.sae("topk", k=8), hook=small.HOOK)
    sae = export.inference(factory.create_step(planned.saes[0], planned).sae, normalization.Normalization())
    drawn_ids = torch.from_numpy(np.random.default_rng(1).integers(0, 48, (5, 20)))
    theirs = sae_lens.evals.get_recons_loss(
        sae, lens_model(model), ActivationScaler(), drawn_ids, compute_kl=True, compute_ce_loss=True,
        hook_name=small.HOOK,
    )  # fmt: skip
    (hook,) = hooks.parse_hooks([small.HOOK], model.description)
    sums = splice.SpliceEvaluator(model, hook, {"sae": lambda x: sae.decode(sae.encode(x))}, torch.zeros(16))
    ones = torch.ones_like(drawn_ids)
    sums.add(TokenSequences(drawn_ids, ones, ones.bool()))
    ours = sums.figures("sae")
    expected = {name: float(values.mean()) for name, values in theirs.items()}
    assert ours["cross_entropy_clean"] == pytest.approx(expected["ce_loss_without_sae"], rel=1e-4)
    assert ours["cross_entropy_sae"] == pytest.approx(expected["ce_loss_with_sae"], rel=1e-4)
    assert ours["cross_entropy_zero_ablation"] == pytest.approx(expected["ce_loss_with_ablation"], rel=1e-4)
    assert ours["kl_divergence"] == pytest.approx(expected["kl_div_with_sae"], rel=1e-3)
    assert ours["kl_divergence_zero_ablation"] == pytest.approx(expected["kl_div_with_ablation"], rel=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_explained_variance_equals_sae_lens() -> None:
    architectures.import_sae_lens()
    import sae_lens.evals

    y, latents, z = drawn()
    theirs = sae_lens.evals.ExplainedVarianceCalculator()
    y, z = y - 990, z - 900
    for one, other in zip(y.split(64), z.split(64), strict=True):
        theirs.add_batch(other, one)
    assert figures(y, latents, z, 64)["explained_variance"] == pytest.approx(theirs.compute(), rel=1e-5)
