"""Small configurations and activations for tests of training steps."""

import torch

from services.trainer.sae import architectures, configs
from services.trainer.sae.steps import base

D_IN, D_SAE, BATCH = 12, 48, 24
OPTIMIZER = configs.OptimizerConfig(lr=1e-2, lr_warm_up_steps=3, lr_decay_steps=4)

FAST = {
    "topk": configs.SaeConfig(architecture="topk", d_in=D_IN, d_sae=D_SAE, k=4, dtype="float64"),
    "topk, plain": configs.SaeConfig(
        architecture="topk",
        d_in=D_IN,
        d_sae=D_SAE,
        k=4,
        dtype="float64",
        rescale_acts_by_decoder_norm=False,
        apply_b_dec_to_input=False,
        aux_loss_coefficient=0.3,
    ),
    "topk, wide": configs.SaeConfig(architecture="topk", d_in=D_IN, d_sae=512, k=3, dtype="float64"),
    "batchtopk": configs.SaeConfig(architecture="batchtopk", d_in=D_IN, d_sae=D_SAE, k=2.5, dtype="float64"),
    "matryoshka": configs.SaeConfig(
        architecture="matryoshka_batchtopk",
        d_in=D_IN,
        d_sae=D_SAE,
        k=4,
        dtype="float64",
        matryoshka_widths=(8, 24),
        use_matryoshka_aux_loss=False,
    ),
    "matryoshka, its aux loss": configs.SaeConfig(
        architecture="matryoshka_batchtopk",
        d_in=D_IN,
        d_sae=D_SAE,
        k=4,
        dtype="float64",
        matryoshka_widths=(8, 24),
        use_matryoshka_aux_loss=True,
    ),
}


RECTIFIED = {
    "standard": configs.SaeConfig(
        architecture="standard", d_in=D_IN, d_sae=D_SAE, dtype="float64", l1_coefficient=0.5, l1_warm_up_steps=4
    ),
    "standard, plain": configs.SaeConfig(
        architecture="standard", d_in=D_IN, d_sae=D_SAE, dtype="float64", apply_b_dec_to_input=False
    ),
    "jumprelu": configs.SaeConfig(
        architecture="jumprelu",
        d_in=D_IN,
        d_sae=D_SAE,
        dtype="float64",
        jumprelu_bandwidth=0.5,
        l0_coefficient=0.2,
        l0_warm_up_steps=4,
    ),
    "jumprelu, quadratic": configs.SaeConfig(
        architecture="jumprelu",
        d_in=D_IN,
        d_sae=D_SAE,
        dtype="float64",
        jumprelu_bandwidth=0.5,
        jumprelu_sparsity_loss_mode="quadratic",
        target_l0=3,
    ),
}


def options(total: int = 20, **changes: object) -> base.Options:
    """Options under which latents die and windows end within a test."""
    return base.Options(OPTIMIZER, total, dead_feature_window=2, feature_sampling_window=7)._replace(**changes)


def activations(count: int, dtype: str = "float64", seed: int = 1) -> list[torch.Tensor]:
    """Batches of Gaussian vectors around a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(BATCH, D_IN, generator=generator, dtype=torch.float64) + 0.3 for _ in range(count)]
    return [batch.to(getattr(torch, dtype)) for batch in made]


def step(kind: type[base.Step], config: configs.SaeConfig, opts: base.Options | None = None) -> base.Step:
    """Return a step with the configuration's initial weights."""
    return kind(config, architectures.create_sae(config), opts or options())
