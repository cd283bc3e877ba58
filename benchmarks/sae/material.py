"""Synthetic activations of known features, from the generator of SynthSAEBench that is part of sae-lens.

Its published model has 16,384 features in 768 dimensions and is trained on for 200 million samples. For two cores it
is scaled down: fewer features, fewer dimensions, and a pool of samples that is used several times. The kinds of
structure are kept: Zipf's firing probabilities, a hierarchy with siblings that exclude each other, correlations,
individual firing magnitudes, a bias.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from services.trainer.sae import architectures

_CHUNK = 2048


class Scale(NamedTuple):
    """Sizes of a synthetic model and of the autoencoder trained on it."""

    features: int
    d_in: int
    d_sae: int
    k: int
    batch: int
    steps: int
    pool: int
    """Number of samples that are generated; batches are drawn from them."""
    roots: int
    """Number of trees of the hierarchy; 0 for none."""


TRAINED = Scale(features=1024, d_in=128, d_sae=512, k=10, batch=512, steps=2000, pool=65_536, roots=8)
"""Small enough to be trained to the end several times."""
FULL = Scale(features=4096, d_in=768, d_sae=4096, k=25, batch=1024, steps=44, pool=8192, roots=0)
"""The published benchmark's dimensions, width, k and batch size; for timing only."""
GPU = Scale(features=4096, d_in=768, d_sae=24_576, k=32, batch=4096, steps=100, pool=32_768, roots=0)
"""GPT-2 small's width and a usual number of latents."""


class Material(NamedTuple):
    """Activations for training and evaluation."""

    model: Any
    """The `SyntheticModel`."""
    pool: torch.Tensor
    """(samples, d_in)."""
    held_out: torch.Tensor
    """Feature activations of held-out samples, (samples, features)."""


def make(scale: Scale, *, evaluated: int = 0) -> Material:
    """Generate a model and its samples, always the same."""
    architectures.import_sae_lens()
    from sae_lens.synthetic import (  # noqa: PLC0415
        FoldedNormalMagnitudeConfig,
        HierarchyConfig,
        LowRankCorrelationConfig,
        SyntheticModel,
        SyntheticModelConfig,
        ZipfianFiringProbabilityConfig,
    )

    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    hierarchy = None
    if scale.roots:
        hierarchy = HierarchyConfig(
            total_root_nodes=scale.roots,
            branching_factor=4,
            max_depth=3,
            mutually_exclusive_portion=1.0,
            compensate_probabilities=True,
        )
    config = SyntheticModelConfig(
        num_features=scale.features,
        hidden_dim=scale.d_in,
        firing_probability=ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.4, min_prob=5e-3),
        hierarchy=hierarchy,
        correlation=LowRankCorrelationConfig(rank=10, correlation_scale=0.1),
        mean_firing_magnitudes=FoldedNormalMagnitudeConfig(mean=4.0, std=0.5),
        std_firing_magnitudes=FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
        bias=10.0,
        seed=0,
    )
    model = SyntheticModel(config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        pool = torch.cat([model.sample(_CHUNK) for _ in range(scale.pool // _CHUNK)])
        held_out = [model.activation_generator.sample(_CHUNK) for _ in range(evaluated // _CHUNK)]
    return Material(model, pool, torch.cat(held_out) if held_out else torch.empty(0))


def batches(pool: torch.Tensor, scale: Scale, seed: int) -> Iterator[torch.Tensor]:
    """Return batches in an order given by the seed, without end: every epoch is shuffled again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(pool), generator=generator)
        for rows in torch.split(order, scale.batch):
            if len(rows) == scale.batch:
                yield pool[rows.to(pool.device)]


class _Kept:
    """Replaces the generator: returns held-out feature activations, the same for every caller."""

    def __init__(self, features: torch.Tensor) -> None:
        self._parts = features
        self._next = 0

    def sample(self, count: int) -> torch.Tensor:
        """Return the next ones."""
        self._next += count
        return self._parts[self._next - count : self._next]


def evaluate(sae: Any, material: Material) -> dict[str, float]:
    """Measure an autoencoder against the known features, by sae-lens's own evaluation of SynthSAEBench."""
    from sae_lens.synthetic import eval_sae_on_synthetic_data  # noqa: PLC0415

    with contextlib.redirect_stderr(io.StringIO()):
        found = eval_sae_on_synthetic_data(
            sae, material.model.feature_dict, _Kept(material.held_out), len(material.held_out), _CHUNK
        )
    return {
        "MCC": found.mcc,
        "F1": found.classification.f1_score,
        "explained variance": found.explained_variance,
        "L0": found.sae_l0,
        "dead latents": found.dead_latents,
    }
