"""Normalisation of activations, estimated once and folded into the weights on export.

Named and defined as in SAELens (`training/activation_scaler.py`): `expected_average_only_in` multiplies by sqrt(d) /
E|x|; `covariance_whitening` (arXiv 2511.13981) maps to z = (x - mean) @ matrix, of zero mean and covariance 1.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch

from polytok import errors
from services.trainer.sae import configs
from services.trainer.sae.data.dataset import ActivationIterator, Block, CheckpointState

_EPSILON = 1e-3
"""Added to eigenvalues, as in sae-lens."""

Sum = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over the processes of a training."""


@dataclasses.dataclass(frozen=True)
class Whitening:
    """An affine map and its inverse, in float64."""

    mean: torch.Tensor
    """Shape (d,)."""
    matrix: torch.Tensor
    """Shape (d, d)."""
    inverse: torch.Tensor
    """Shape (d, d)."""


@dataclasses.dataclass(frozen=True)
class Normalization:
    """The normalisation of one hook's activations."""

    kind: configs.Normalization = "none"
    scale: float = 1.0
    whitening: Whitening | None = None
    mean_norm: float = 0.0
    """The estimate of E|x|."""
    samples: int = 0
    """Number of activations that it was estimated on; 0 without an estimate."""

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        """Normalise activations of shape (n, d); the result is float32 unless they are wider."""
        if self.kind == "none":
            return activations
        wide = activations.to(torch.promote_types(activations.dtype, torch.float32))
        if self.whitening is None:
            return wide * self.scale
        matrix = self.whitening.matrix.to(wide.device, wide.dtype)
        return (wide - self.whitening.mean.to(wide.device, wide.dtype)) @ matrix

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a record."""
        return {"kind": self.kind, "scale": self.scale, "mean_norm": self.mean_norm, "samples": self.samples}

    def state(self) -> CheckpointState:
        """Return the state for a checkpoint; floats survive JSON exactly."""
        tensors = {} if self.whitening is None else dataclasses.asdict(self.whitening)
        return CheckpointState(tensors, self.to_dict())

    @classmethod
    def from_state(cls, state: CheckpointState) -> Self:
        """Read the output of `state`."""
        whitening = Whitening(**state.tensors) if state.tensors else None
        return cls(**state.values, whitening=whitening)

    def to(self, device: str) -> Self:
        """Return a copy with its tensors on a device."""
        if self.whitening is None:
            return self
        moved = {name: tensor.to(device) for name, tensor in vars(self.whitening).items()}
        return dataclasses.replace(self, whitening=Whitening(**moved))


Key = tuple[str, configs.Normalization]
"""Hook and kind."""


def keys(planned: Iterable[configs.PlannedSae]) -> tuple[Key, ...]:
    """Return the (hook, kind) pairs to estimate, without duplicates."""
    return tuple(dict.fromkeys((each.hook, each.sae.normalize_activations) for each in planned))


class _Sums:
    """Sums over the activations at one hook, in float64."""

    def __init__(self, *, outer: bool) -> None:
        self._outer = outer
        self.count = 0
        self.width = 0
        self.norm = torch.zeros(1, dtype=torch.float64)
        self.vector = torch.zeros(0, dtype=torch.float64)
        self.products = torch.zeros(0, dtype=torch.float64)

    def add(self, activations: torch.Tensor) -> None:
        wide = activations.to(torch.float64)
        self.count, self.width = self.count + len(wide), wide.shape[1]
        self.norm = self.norm.to(wide.device) + wide.norm(dim=-1).sum()
        if self._outer:
            self.vector = wide.sum(0) + (self.vector if len(self.vector) else 0)
            self.products = wide.T @ wide + (self.products if len(self.products) else 0)


def samples_of(wanted: Iterable[Key], samples: int) -> int:
    """Return how many of a number of activations an estimate reads: none if nothing is estimated."""
    return samples if any(kind != "none" for _, kind in wanted) else 0


@torch.no_grad()
def estimate(
    source: ActivationIterator,
    wanted: Iterable[Key],
    samples: int,
    over: Sum,
    on_read: Callable[[int], None] = lambda _: None,
) -> dict[Key, Normalization]:
    """Estimate on the first `samples` activations of a source, whose position is restored afterwards.

    `over` sums over processes, each with as many samples; `on_read` is called with the number of activations read.
    Raises `errors.FailedPrecondition` for activations that are all zero or not finite.
    """
    wanted = tuple(wanted)
    found: dict[Key, Normalization] = {key: Normalization() for key in wanted if key[1] == "none"}
    missing = [key for key in wanted if key not in found]
    if not missing:
        return found
    sums = {key: _Sums(outer=key[1] == "covariance_whitening") for key in missing}
    before = source.position()
    seen = 0
    while seen < samples:
        block = _first(source.read(), samples - seen)
        seen += len(next(iter(block.values())))
        on_read(seen)
        for key, each in sums.items():
            each.add(block[key[0]])
    source.seek(before)
    return found | {key: _estimated(key, each, over) for key, each in sums.items()}


def _first(block: Block, count: int) -> Block:
    return {hook: values[:count] for hook, values in block.items()}


def _estimated(key: Key, sums: _Sums, over: Sum) -> Normalization:
    hook, kind = key
    count = int(over(torch.tensor([sums.count], dtype=torch.int64)))
    mean_norm = float(over(sums.norm)) / count
    if not 0 < mean_norm < float("inf"):
        raise errors.FailedPrecondition(
            f"{hook}: the first {count:,} activations have a mean norm of {mean_norm:g}, which cannot be used "
            "as a scale. Check the model, or train with normalize_activations none.",
            reason="NOT_FINITE",
        )
    if kind == "expected_average_only_in":
        return Normalization(kind, sums.width**0.5 / mean_norm, None, mean_norm, count)
    vector, products = over(sums.vector), over(sums.products)
    mean = vector / count
    covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0) + _EPSILON
    whitening = Whitening(
        mean, (vectors * values.rsqrt()).contiguous(), (values.sqrt()[:, None] * vectors.T).contiguous()
    )
    return Normalization(kind, 1.0, whitening, mean_norm, count)
