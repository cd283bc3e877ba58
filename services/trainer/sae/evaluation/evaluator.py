"""Evaluate the autoencoders of a training on its held-out sequences, all of them in one pass of the model."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from services.trainer.sae.data.dataset import ActivationDataset
from services.trainer.sae.evaluation import reconstruction, splice

_NOT_IN_THE_MODEL = (
    "not evaluated in the model: it has no language-modelling head or is a masked language model, or it, its "
    "tokenization or a whole held-out sequence is not available"
)
_CHUNK_ELEMENTS = 1 << 25
"""Number of latents that are processed together."""


class Autoencoder(NamedTuple):
    """An autoencoder for activations as the model produces them; normalisation is included."""

    hook: str
    d_sae: int
    encode: Callable[[torch.Tensor], torch.Tensor]
    """Maps activations of shape (n, d_in) to latents (n, d_sae)."""
    decode: Callable[[torch.Tensor], torch.Tensor]
    """Maps latents to reconstructions."""


def chunk(autoencoder: Autoencoder) -> int:
    """Return the number of vectors whose latents fit in memory together."""
    return max(1, _CHUNK_ELEMENTS // autoencoder.d_sae)


def evaluate(
    data: ActivationDataset,
    autoencoders: Mapping[str, Autoencoder],
    sums: dict[str, reconstruction.Reconstruction] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the figures of each autoencoder by name, including those in the model if there is one.

    `formulas` defines each figure, `held_out` the sequences. `sums` receives the sums behind the figures of
    reconstruction, by name.
    """
    found, means = _reconstruct(data, autoencoders, {} if sums is None else sums)
    found = {name: found.get(name) or reconstruction.Reconstruction(1).figures() for name in autoencoders}
    for hook in {each.hook: None for each in autoencoders.values()}:
        of_hook = {name: each for name, each in autoencoders.items() if each.hook == hook}
        spliced = _splice(data, hook, means[hook], of_hook) if hook in means else {}
        for name in of_hook:
            found[name] = _merged(found[name], spliced.get(name) or splice.not_evaluated(_NOT_IN_THE_MODEL))
    formulas = reconstruction.FORMULAS | splice.FORMULAS
    return {name: figures | {"formulas": formulas, "held_out": data.description} for name, figures in found.items()}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return one | other | {name: one[name] | other[name] for name in ("undefined", "caveats")}


def _reconstruct(
    data: ActivationDataset, autoencoders: Mapping[str, Autoencoder], sums: dict[str, reconstruction.Reconstruction]
) -> tuple[dict[str, dict[str, Any]], dict[str, torch.Tensor]]:
    """Return the figures of reconstruction by name, and the mean activation by hook."""
    totals: dict[str, torch.Tensor] = {}
    samples = 0
    for block in data.held_out():
        samples += len(next(iter(block.values())))
        for hook, values in block.items():
            total = values.sum(0, dtype=torch.float64)
            totals[hook] = totals[hook] + total if hook in totals else total
        for name, each in autoencoders.items():
            vectors = block[each.hook]
            into = sums.setdefault(name, reconstruction.Reconstruction(each.d_sae, vectors.device))
            reconstruction.measure(each.encode, each.decode, vectors, into, chunk=chunk(each))
    figures = {name: each.figures() for name, each in sums.items()}
    return figures, {hook: total / samples for hook, total in totals.items()}


def _splice(
    data: ActivationDataset, hook: str, mean: torch.Tensor, autoencoders: Mapping[str, Autoencoder]
) -> dict[str, dict[str, Any]]:
    spliced = data.splice_target(hook) if autoencoders else None
    if spliced is None:
        return {}
    reconstructs = {name: _through(each) for name, each in autoencoders.items()}
    sums = splice.SpliceEvaluator(spliced.model, spliced.hook, reconstructs, mean)
    for sequences in spliced.sequences():
        sums.add(sequences)
    return {name: sums.figures(name) for name in autoencoders}


def _through(autoencoder: Autoencoder) -> splice.Replace:
    return lambda vectors: autoencoder.decode(autoencoder.encode(vectors))
