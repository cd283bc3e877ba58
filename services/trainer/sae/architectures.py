"""Autoencoders as SAELens defines them: its training classes provide parameters, initialisation and reference loss."""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from services.trainer.sae import configs

_ENCODER = "W_enc"
_RENAMED = {"architecture", "seed"}


@functools.cache
def import_sae_lens() -> Any:
    """Import `sae_lens` on first use: the import takes seconds, and emits deprecation warnings of its dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens  # noqa: PLC0415
        import sae_lens.saes.sae  # noqa: PLC0415
    return sae_lens


def create_sae(config: configs.SaeConfig, *, device: str = "cpu", metadata: Mapping[str, Any] | None = None) -> Any:
    """Create a `sae_lens.TrainingSAE` with initial weights drawn from the configuration's seed.

    `metadata` becomes the metadata of its configuration (model name, hook name …). The encoder's weights, of shape
    (d_in, d_sae), are stored latent by latent like those of the decoder, so that a latent's gradient is one row.
    """
    training_class, config_class = import_sae_lens().registry.get_sae_training_class(config.architecture)
    fields = dataclasses.asdict(config) | {"matryoshka_widths": list(config.matryoshka_widths)}
    taken = set(inspect.signature(config_class).parameters) - _RENAMED
    own = {name: value for name, value in fields.items() if name in taken}
    if config.architecture == "topk":
        own["k"] = int(config.k)
    sae_config = config_class(**own, device="cpu", metadata=import_sae_lens().saes.sae.SAEMetadata(**(metadata or {})))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # A single matryoshka level is a batchtopk; sae-lens warns about it.
        warnings.filterwarnings("ignore", message="WARNING: You have only set one matryoshka level")
        torch.manual_seed(config.seed)
        sae = training_class(sae_config)
    # Drawn on the processor whatever the device, so that the weights depend on the seed alone.
    sae.to(device)
    sae.W_enc = torch.nn.Parameter(sae.W_enc.detach().t().contiguous().t())
    return sae


def leaves(sae: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained parameters as contiguous tensors that share their memory, by SAELens's names.

    The encoder's weights are transposed, of shape (d_sae, d_in), as `W_enc.T`.
    """
    found: dict[str, torch.Tensor] = {}
    for name, parameter in sae.named_parameters():
        value = parameter.detach()
        found |= {f"{name}.T": value.t()} if name == _ENCODER else {name: value}
    return found


def gradients(sae: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradients that autograd left on the parameters, named and laid out as the leaves."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in sae.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found |= {f"{name}.T": gradient.t().contiguous()} if name == _ENCODER else {name: gradient}
    return found
