"""Reconstruction quality and sparsity: sums in float64 over all held-out vectors.

x is an activation, y the target of the autoencoder (x itself, or a transcoder's target), z its reconstruction. Every
mean E is over all vectors of all blocks with equal weight, never a mean of means of blocks: published tools that
average the ratio over vectors or blocks differ in explained variance by 0.2 and more.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from services.trainer.sae.evaluation.ratios import Figures, Mean, undefined

FORMULAS = {
    "explained_variance": "1 - E|y - z|^2 / E|y - E y|^2, float64, all held-out vectors with equal weight",
    "mse": "E|y - z|^2, summed over dimensions",
    "l0": "E of the number of latents that are not 0",
    "l1": "E of the sum of absolute latents",
    "cosine_similarity": "E of y.z / (|y||z|), 0 where a norm is 0",
    "l2_ratio": "E of |z| / |y|, |y| taken as 1 where it is below 1e-4",
    "shrinkage": "1 - l2_ratio: the share of the norm that reconstructions lack",
    "relative_reconstruction_bias": "E|z|^2 / E(y.z); below 1 is shrinkage (arXiv 2404.16014, equation 10)",
    "dead_latents": "latents that no held-out vector fires",
    "firing_frequency": "share of held-out vectors that fire a latent; counted in bins of log10, dead latents apart",
}

_BINS_PER_DECADE = 4
_LOWEST_DECADE = -8
_SMALL_NORM = 1e-4


class Reconstruction:
    """Sums over vectors, from which the figures are computed."""

    def __init__(self, d_sae: int, device: str | torch.device = "cpu") -> None:
        self._fired = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self._device = torch.device(device)
        self._samples = 0
        self._sums: dict[str, torch.Tensor] = {}
        self._shift: torch.Tensor | None = None
        self._shifted_sum = torch.zeros((), dtype=torch.float64)
        self._dot = Mean()
        self._eps = 0.0

    @torch.no_grad()
    def add(self, target: torch.Tensor, latents: torch.Tensor, output: torch.Tensor) -> None:
        """Add vectors: targets and outputs of shape (n, d), latents (n, d_sae)."""
        latents = latents.to_dense() if latents.is_sparse else latents
        self._eps = torch.finfo(target.dtype).eps
        y, z = target.to(torch.float64), output.to(torch.float64)
        active = latents != 0
        self._fired += active.sum(0)
        self._samples += len(y)
        self._add_variance(y)
        norm_y, norm_z, dot = y.norm(dim=-1), z.norm(dim=-1), (y * z).sum(-1)
        norms = norm_y * norm_z
        self._add("residual", (y - z).square().sum())
        self._add("l0", active.sum())
        self._add("l1", latents.to(torch.float64).abs().sum())
        self._add("cosine", torch.where(norms > 0, dot / norms.clamp(min=torch.finfo(torch.float64).tiny), 0).sum())
        self._add("ratio", (norm_z / torch.where(norm_y < _SMALL_NORM, 1.0, norm_y)).sum())
        self._add("output_squared", norm_z.square().sum())
        self._add("target_squared", norm_y.square().sum())
        self._dot.add(dot)

    def _add(self, name: str, value: torch.Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value.to(torch.float64)

    def _add_variance(self, y: torch.Tensor) -> None:
        # Around a point near the mean: E|y|^2 - |E y|^2 around 0 would cancel where the mean is large.
        if self._shift is None:
            self._shift = y.mean(0)
            self._shifted_sum = torch.zeros_like(self._shift)
        shifted = y - self._shift
        self._shifted_sum += shifted.sum(0)
        self._add("shifted_squared", shifted.square().sum())

    def firing(self) -> tuple[torch.Tensor, int]:
        """Return how many vectors fired each latent, shape (d_sae,), and the number of vectors."""
        return self._fired, self._samples

    def figures(self) -> dict[str, Any]:
        """Return the figures of FORMULAS and `samples`; see `ratios` for undefined ones."""
        n = self._samples
        if not n:
            found = Figures(samples=0)
            for name in FORMULAS.keys() - {"firing_frequency"}:
                found.leave_undefined(name, "no held-out token is trained on")
            return found.to_dict()
        sums = {name: float(value) for name, value in self._sums.items()}
        variance = max(0.0, sums["shifted_squared"] / n - float((self._shifted_sum / n).square().sum()))
        mse = sums["residual"] / n
        found = Figures(
            samples=n,
            mse=mse,
            variance=variance,
            l0=sums["l0"] / n,
            l1=sums["l1"] / n,
            cosine_similarity=sums["cosine"] / n,
            l2_ratio=sums["ratio"] / n,
            shrinkage=1 - sums["ratio"] / n,
            dead_latents=int((self._fired == 0).sum()),
            firing_frequency=histogram(self._fired.cpu() / n),
        )
        squared, output = sums["target_squared"] / n, sums["output_squared"] / n
        # The difference of equal vectors after each number is rounded on its own.
        rounding = self._eps**2 * squared
        why_not = undefined("the variance of the held-out activations", variance, rounding=rounding)
        found.add_ratio("explained_variance", variance - mse, variance, why_not)
        dot, rounding = self._dot.value, self._eps * math.sqrt(squared * output)
        why_not = undefined("E(y.z)", dot, error=self._dot.error, rounding=rounding)
        found.add_ratio("relative_reconstruction_bias", output, dot, why_not)
        return found.to_dict()


def histogram(frequencies: torch.Tensor) -> dict[str, Any]:
    """Count latents by the decimal logarithm of their firing frequency, in quarters of a decade from 1e-8 to 1.

    Returns `log10_edges`, one more than `counts`, and `never`, the number of latents that do not fire. A latent that
    always fires is in the last bin.
    """
    edges = torch.arange(_LOWEST_DECADE * _BINS_PER_DECADE, 1, dtype=torch.float64) / _BINS_PER_DECADE
    logs = frequencies[frequencies > 0].to(torch.float64).log10().clamp(min=float(edges[0]))
    # Right of an edge, so that a tenth is in the bin that begins at -1.
    index = torch.bucketize(logs, edges[1:-1], right=True)
    counts = torch.bincount(index, minlength=len(edges) - 1)
    return {
        "log10_edges": edges.tolist(),
        "counts": counts.tolist(),
        "never": int((frequencies == 0).sum()),
    }


def measure(
    encode: Callable[[torch.Tensor], torch.Tensor],
    decode: Callable[[torch.Tensor], torch.Tensor],
    vectors: torch.Tensor,
    into: Reconstruction,
    *,
    chunk: int = 2048,
) -> None:
    """Add an autoencoder's reconstructions of vectors of shape (n, d), `chunk` of them at a time."""
    with torch.no_grad():
        for part in torch.split(vectors, chunk):
            latents = encode(part)
            into.add(part, latents, decode(latents))
