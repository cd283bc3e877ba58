"""Statistics of a hook's activations, computed in one pass in float64 and merged across tasks.

Moments are kept about the mean and merged by Chan et al. (1979) for the second and Pébay (2008, SAND2008-6212, eqs.
3.1) for the third and fourth, so that the result does not depend on how the vectors were split, rounding apart.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor

from polytok import errors

Vector = NDArray[np.float64]
OUTLIER = 6.0
"""A dimension is an outlier if its root mean square is more than this many times the median dimension's."""
_CHUNK_NUMBERS = {"cpu": 1 << 15, "cuda": 1 << 22}
"""On a CPU, a size that stays in a core's cache while all sums are computed, and for which torch
uses no second thread.
"""


@dataclass
class ActivationStatistics:
    """Statistics of one hook's vectors. Vectors with NaN or infinity are only counted."""

    width: int
    count: int = 0
    """Number of vectors without NaN or infinity."""
    nan: int = 0
    """Number of NaN values."""
    infinite: int = 0
    """Number of infinite values."""
    left_out: int = 0
    """Number of vectors with any of these."""
    mean: Vector = field(default_factory=lambda: np.zeros(0))
    """Mean vector [width], which centering subtracts."""
    moments: Vector = field(default_factory=lambda: np.zeros((3, 0)))
    """Sums of the second, third and fourth power of the distance from the mean [3, width]."""
    low: Vector = field(default_factory=lambda: np.zeros(0))
    """Smallest number [width]."""
    high: Vector = field(default_factory=lambda: np.zeros(0))
    """Largest number [width]."""
    norm_mean: float = 0.0
    """Mean Euclidean length."""
    norm_moment: float = 0.0
    """Sum of squared distances of the lengths from their mean."""

    def __post_init__(self) -> None:
        if not len(self.mean):
            self.mean, self.moments = np.zeros(self.width), np.zeros((3, self.width))
            self.low, self.high = np.full(self.width, np.inf), np.full(self.width, -np.inf)

    def add(self, values: Tensor) -> None:
        """Add vectors [n, width] of any floating-point type and device."""
        if not len(values):
            return
        sums = _Sums(values, self.mean if self.count else None)
        fine = torch.isfinite(sums.norms)
        if not bool(fine.all()):
            self.nan += int(torch.isnan(values).sum())
            self.infinite += int(torch.isinf(values).sum())
            self.left_out += int((~fine).sum())
            self.add(values[fine])
        else:
            self.merge(sums.statistics())

    def merge(self, other: "ActivationStatistics") -> None:
        """Merge other statistics of the same hook."""
        if other.width != self.width:
            raise errors.InvalidArgument(
                f"Statistics of {other.width} dimensions cannot be merged with those of {self.width}: they "
                "belong to another hook or model.",
                reason="WRONG_STATE",
            )
        self.nan += other.nan
        self.infinite += other.infinite
        self.left_out += other.left_out
        total = self.count + other.count
        if not other.count:
            return
        delta = other.mean - self.mean
        self.moments = _merged(self.moments, self.count, other.moments, other.count, delta)
        self.mean = self.mean + delta * (other.count / total)
        apart = other.norm_mean - self.norm_mean
        self.norm_moment += other.norm_moment + apart * apart * (self.count * other.count / total)
        self.norm_mean += apart * (other.count / total)
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.count = total

    @property
    def variance(self) -> Vector:
        """Variance of each dimension, over all vectors (not the estimate that divides by one less)."""
        second: Vector = self.moments[0]
        return second / max(1, self.count)

    @property
    def kurtosis(self) -> Vector:
        """Kurtosis of each dimension: 3 for normally distributed numbers; NaN for a constant dimension."""
        spread = self.moments[0]
        # For equal numbers, rounding leaves a spread, and an arbitrary kurtosis.
        varies = (spread > 0) & (self.low < self.high)
        return np.where(varies, self.count * self.moments[2] / np.where(varies, spread * spread, 1.0), np.nan)

    @property
    def dead(self) -> NDArray[np.int64]:
        """Dimensions that are constant over all vectors; none if there are fewer than two vectors."""
        return np.flatnonzero(self.low == self.high) if self.count > 1 else np.zeros(0, np.int64)

    @property
    def outliers(self) -> NDArray[np.int64]:
        """Dimensions whose root mean square exceeds OUTLIER times the median of the dimensions that are not all 0."""
        scale = np.sqrt(self.variance + self.mean**2)
        used = scale[scale > 0]
        return np.flatnonzero(scale > OUTLIER * np.median(used)) if len(used) else np.zeros(0, np.int64)

    def summary(self) -> dict[str, Any]:
        """Return the fields as JSON: numbers, and lists with one number per dimension.

        None for what is undefined.
        """
        some = bool(self.count)
        kurtosis = self.kurtosis[np.isfinite(self.kurtosis)]
        return {
            "num_vectors": self.count,
            "width": self.width,
            "norm_mean": self.norm_mean,
            "norm_std": float(np.sqrt(self.norm_moment / max(1, self.count))),
            "min": float(self.low.min()) if some else 0.0,
            "max": float(self.high.max()) if some else 0.0,
            "variance_mean": float(self.variance.mean()),
            "kurtosis_mean": float(kurtosis.mean()) if len(kurtosis) else None,
            "num_nan": self.nan,
            "num_infinite": self.infinite,
            "num_vectors_left_out": self.left_out,
            "dead_dimensions": self.dead.tolist(),
            "outlier_dimensions": self.outliers.tolist(),
            "mean_vector": self.mean.tolist(),
            "variance_vector": self.variance.tolist(),
        }

    def to_bytes(self) -> bytes:
        """Return the fields as safetensors, for a message between tasks."""
        counts = np.array([self.count, self.nan, self.infinite, self.left_out], np.int64)
        norms = np.array([self.norm_mean, self.norm_moment])
        arrays = {"mean": self.mean, "moments": self.moments, "low": self.low, "high": self.high}
        return save_arrays({"counts": counts, "norms": norms, **arrays})

    @classmethod
    def from_bytes(cls, data: bytes) -> "ActivationStatistics":
        """Read the output of `to_bytes`; raises DataLoss for anything else."""
        try:
            arrays = load_arrays(data)
            count, nan, infinite, left_out = arrays["counts"].tolist()
            norm_mean, norm_moment = arrays["norms"].tolist()
            (width,) = arrays["mean"].shape
            mean, low, high = (arrays[name].reshape(width) for name in ("mean", "low", "high"))
            moments = arrays["moments"].reshape(3, width)
        except (SafetensorError, KeyError, ValueError) as error:
            raise errors.DataLoss(
                f"These are not valid activation statistics ({error}). Retry the extraction.", reason="MESSAGE_INVALID"
            ) from error
        return cls(width, count, nan, infinite, left_out, mean, moments, low, high, norm_mean, norm_moment)


def _merged(ours: Vector, num_ours: int, theirs: Vector, num_theirs: int, delta: Vector) -> Vector:
    """Return the moments [3, width] of two sets together; `delta` is their mean minus ours."""
    total = num_ours + num_theirs
    a, b = num_ours / total, num_theirs / total
    product = num_ours * b
    square = delta * delta
    second = ours[0] + theirs[0] + square * product
    third = ours[1] + theirs[1] + square * delta * product * (a - b) + 3 * delta * (a * theirs[0] - b * ours[0])
    fourth = (
        ours[2]
        + theirs[2]
        + square * square * product * (a * a - a * b + b * b)
        + 6 * square * (a * a * theirs[0] + b * b * ours[0])
        + 4 * delta * (a * theirs[1] - b * ours[1])
    )
    return np.stack([second, third, fourth])


class _Sums:
    """Sums over finite vectors, about a point near their mean, so that little cancels."""

    def __init__(self, values: Tensor, about: Vector | None) -> None:
        width = values.shape[1]
        start = values[:1024].double().mean(0) if about is None else torch.from_numpy(about).to(values.device)
        self._pivot = start
        self._powers = torch.zeros(4, width, dtype=torch.float64, device=values.device)
        self._low, self._high = values[0], values[0]
        norms = []
        for chunk in torch.split(values, max(1, _CHUNK_NUMBERS[values.device.type] // width)):
            norms.append(torch.linalg.vector_norm(chunk, dim=1, dtype=torch.float64))
            self._low = torch.minimum(self._low, chunk.amin(0))
            self._high = torch.maximum(self._high, chunk.amax(0))
            distance = chunk - start
            self._powers[0] += distance.sum(0)
            square = distance * distance
            self._powers[1] += square.sum(0)
            self._powers[2] += distance.mul_(square).sum(0)
            self._powers[3] += square.mul_(square).sum(0)
        self.norms = torch.cat(norms)
        """Euclidean lengths [n]; not finite for a vector that is not."""

    def statistics(self) -> ActivationStatistics:
        """Return the statistics of these vectors alone."""
        count, width = len(self.norms), len(self._low)
        first, second, third, fourth = self._powers.cpu().numpy()
        shift = first / count
        moments = np.stack(
            [
                np.maximum(0.0, second - count * shift**2),
                third - 3 * shift * second + 2 * count * shift**3,
                np.maximum(0.0, fourth - 4 * shift * third + 6 * shift**2 * second - 3 * count * shift**4),
            ]
        )
        norm_mean = float(self.norms.mean())
        return ActivationStatistics(
            width,
            count,
            mean=self._pivot.cpu().numpy() + shift,
            moments=moments,
            low=self._low.double().cpu().numpy(),
            high=self._high.double().cpu().numpy(),
            norm_mean=norm_mean,
            norm_moment=float(((self.norms - norm_mean) ** 2).sum()),
        )
