import dataclasses
import errno
import json
import os

import pytest
import safetensors.torch
import torch

from polytok import errors
from services.activations.token_selection import TokenSelection
from services.trainer.sae import architectures, configs, export, normalization
from services.trainer.sae.steps import factory
from tests.support import messages
from tests.trainer import batches

D_IN, D_SAE = 16, 64
ORIGIN = export.Origin(
    model_name="gpt2",
    hook_name="blocks.2.hook_resid_post",
    context_size=128,
    prepend_bos=True,
    selection=TokenSelection(excluded_token_ids=(0, 50256)),
    further={"tokenization": "datasets/a/tokenizations/b"},
)


@pytest.fixture(scope="module")
def activations():
    """Vectors with a mean and directions of very different length, as a model's are."""
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(D_IN, D_IN, generator=generator) * torch.linspace(0.2, 3, D_IN)
    return torch.randn(512, D_IN, generator=generator) @ mixing + 2


def _scaling(kind, activations):
    if kind == "expected_average_only_in":
        return normalization.Normalization(kind, D_IN**0.5 / float(activations.norm(dim=-1).mean()))
    if kind == "covariance_whitening":
        values, vectors = torch.linalg.eigh(torch.cov(activations.double().T))
        whitening = normalization.Whitening(
            activations.double().mean(0), (vectors * values.rsqrt()).contiguous(), (values.sqrt()[:, None] * vectors.T)
        )
        return normalization.Normalization(kind, 1.0, whitening)
    return normalization.Normalization()


def _trained(architecture, scaling, activations, **changes):
    config = configs.SaeConfig(
        **{
            "architecture": architecture,
            "d_in": D_IN,
            "d_sae": D_SAE,
            "k": 6,
            "l1_coefficient": 0.5,
            "l0_coefficient": 0.3,
            "jumprelu_bandwidth": 0.5,
            "matryoshka_widths": (16, 32),
            "normalize_activations": scaling.kind,
        }
        | changes
    )
    options = batches.options(60)._replace(optimizer=configs.OptimizerConfig(lr=1e-2))
    step = batches.step(factory.choose_step_class(config), config, options)
    for part in scaling.apply(activations).chunk(6) * 10:
        step(part)
    return step


@torch.no_grad()
def _ours(step, scaling, activations):
    """Latents and reconstruction by the formulas of the papers, of what the training holds."""
    sae, config = step.sae, step.config
    given = scaling.apply(activations)
    if config.architecture in ("batchtopk", "matryoshka_batchtopk"):
        norms = sae.W_dec.norm(dim=-1)
        hidden = ((given - sae.b_dec * config.apply_b_dec_to_input) @ sae.W_enc + sae.b_enc) * norms
        latents = torch.where(hidden > sae.topk_threshold.float(), hidden.relu(), 0)
        output = (latents / norms) @ sae.W_dec + sae.b_dec
    else:
        latents = sae.encode(given)
        output = sae.decode(latents)
    if scaling.whitening is not None:
        return latents, (output.double() @ scaling.whitening.inverse + scaling.whitening.mean).float()
    # A latent of the topk family is measured along a decoder row of length 1: in the units of what comes in.
    return latents / (scaling.scale if config.architecture in configs.TOPK_FAMILY else 1), output / scaling.scale


def _write(step, scaling, folder):
    counts, samples = step.firing()
    export.write(step.sae, scaling, ORIGIN, export.Firing(counts, samples, "held out"), folder)
    return folder


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
@pytest.mark.parametrize("kind", configs.NORMALIZATIONS)
@pytest.mark.parametrize("from_input", [True, False])
def test_saelens_gives_our_numbers(architecture, kind, from_input, activations, tmp_path):
    scaling = _scaling(kind, activations)
    step = _trained(architecture, scaling, activations, apply_b_dec_to_input=from_input)
    before = {name: tensor.clone() for name, tensor in step.state().tensors.items()}
    folder = _write(step, scaling, tmp_path / "sae")
    opened = architectures.import_sae_lens().SAE.load_from_disk(folder)
    with torch.no_grad():
        latents = opened.encode(activations)
        output = opened.decode(latents)
    expected, reconstruction = _ours(step, scaling, activations)
    other = (latents - expected).abs() >= 1e-5 * expected.abs().max()
    # Of 32,768 scores one may lie within rounding of what decides whether its latent is active: another processor
    # decides otherwise, here or there.
    assert int(other.sum()) <= 2
    whole = ~other.any(-1)
    assert float((output - reconstruction)[whole].abs().max()) < 1e-5 * float(activations.abs().max())
    l0 = float((latents != 0).float().sum(-1).mean())
    assert l0 == pytest.approx(float((expected != 0).float().sum(-1).mean()), rel=1e-3)
    assert 0 < l0 < D_SAE
    assert torch.equal(export.inference(step.sae, scaling).encode(activations), latents)
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.state().tensors.items())


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
def test_files_hold_configuration_and_provenance(architecture, activations, tmp_path):
    scaling = _scaling("expected_average_only_in", activations)
    step = _trained(architecture, scaling, activations)
    folder = _write(step, scaling, tmp_path / "sae")
    assert sorted(path.name for path in folder.iterdir()) == sorted(export.FILES)
    config = json.loads((folder / "cfg.json").read_text())
    becomes_jumprelu = architecture in ("batchtopk", "matryoshka_batchtopk")
    assert config["architecture"] == ("jumprelu" if becomes_jumprelu else architecture)
    assert (config["d_in"], config["d_sae"], config["dtype"], config["device"]) == (D_IN, D_SAE, "float32", "cpu")
    assert config["normalize_activations"] == "none"
    metadata = config["metadata"]
    assert metadata["training_architecture"] == architecture
    assert metadata["training_architecture_details"]["decoder_init_norm"] == 0.1
    assert metadata["activation_normalization"]["scale"] == scaling.scale
    assert {name: metadata[name] for name in ("model_name", "hook_name", "prepend_bos", "context_size")} == {
        "model_name": "gpt2",
        "hook_name": "blocks.2.hook_resid_post",
        "prepend_bos": True,
        "context_size": 128,
    }
    assert metadata["exclude_special_tokens"] == [0, 50256]
    assert metadata["tokenization"] == "datasets/a/tokenizations/b"
    assert metadata["sae_lens_version"].startswith("6.")
    counts, samples = step.firing()
    sparsity = safetensors.torch.load_file(folder / "sparsity.safetensors")["sparsity"]
    assert torch.allclose(10**sparsity, (counts / samples).float(), atol=1e-6)
    assert metadata["l0"] == pytest.approx(float(counts.sum()) / samples)
    assert metadata["num_dead_features"] == int((counts == 0).sum())


def test_not_finite_weights_are_not_exported(activations, tmp_path):
    scaling = _scaling("none", activations)
    step = _trained("standard", scaling, activations)
    with torch.no_grad():
        step.sae.W_dec[3, 2] = float("nan")
    with pytest.raises(errors.FailedPrecondition) as caught:
        _write(step, scaling, tmp_path / "sae")
    messages.check_names(caught.value.message, "sae", "W_dec")
    assert not (tmp_path / "sae").exists()


def test_unwritable_folder(activations, tmp_path):
    scaling = _scaling("none", activations)
    step = _trained("standard", scaling, activations)
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ResourceExhausted) as caught:
        _write(step, scaling, tmp_path / "file" / "sae")
    assert caught.value.reason == "STORAGE_FAILED"
    messages.check_names(caught.value.message, tmp_path / "file" / "sae", os.strerror(errno.ENOTDIR))


@pytest.mark.parametrize(
    ("excluded", "found"),
    [
        ((), [None]),
        ((0,), [1, None]),
        ((0, 1, 7), [2, 7]),
        ((1, 3, 5, 7), [0, None, 2]),
        ((5,), None),
        (tuple(range(8)), None),
    ],
)
def test_excluded_positions_as_a_slice(excluded: tuple[int, ...], found: list[int | None] | None) -> None:
    selection = TokenSelection(excluded_positions=excluded)
    metadata = dataclasses.replace(ORIGIN, context_size=8, selection=selection).metadata()
    assert metadata["seqpos_slice"] == found
    assert metadata.get("excluded_positions", []) == list(excluded)
    assert metadata["exclude_special_tokens"] is False
