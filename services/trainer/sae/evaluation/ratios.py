"""Ratios, and why one is undefined: dividing by almost nothing yields noise.

A denominator is almost nothing if it is not finite, if it is no larger than rounding makes of 0 in the number format
of the computation, or if it lies within three of its standard errors of 0: the relative error of the ratio is then at
least a third. An undefined ratio is None, with the reason beside it.
"""

import dataclasses
import math
from typing import Any

import torch

STANDARD_ERRORS = 3.0
"""A mean within this many of its standard errors of a value cannot be distinguished from that value."""


@dataclasses.dataclass
class Mean:
    """The mean of numbers that arrive in parts, and its standard error for independent numbers; in float64."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: torch.Tensor) -> None:
        """Add numbers; waits for the device."""
        wide = values.to(torch.float64)
        self.count += wide.numel()
        self.total += float(wide.sum())
        self.squares += float(wide.square().sum())

    @property
    def value(self) -> float:
        """The mean; NaN of no numbers."""
        return self.total / self.count if self.count else math.nan

    @property
    def error(self) -> float:
        """Its standard error; infinite where there are fewer than two numbers."""
        if self.count < 2:
            return math.inf
        spread = self.squares / self.count - self.value**2
        return math.sqrt(max(0.0, spread) / (self.count - 1))


def undefined(what: str, value: float, *, error: float = 0.0, rounding: float = 0.0) -> str:
    """Return why nothing can be divided by a value, or an empty string. `what` begins the sentence.

    `error` is the value's standard error, `rounding` what rounding alone may make of 0.
    """
    if not math.isfinite(value):
        return f"{what} is NaN or infinite"
    if abs(value) <= rounding:
        return f"{what} is {value:.3g}, which is 0 within rounding"
    if not math.isfinite(error):
        return f"{what} is {value:.3g}, measured once"
    if abs(value) <= STANDARD_ERRORS * error:
        return f"{what} is {value:.3g} with a standard error of {error:.2g}, which cannot be distinguished from 0"
    return ""


class Figures:
    """Figures by name; undefined ones are None, and `undefined` says why."""

    def __init__(self, not_finite: str = "it is NaN or infinite", **figures: Any) -> None:
        """`not_finite` is the reason for those of `figures` that are NaN or infinite."""
        self._figures = figures
        self._undefined: dict[str, str] = {}
        self._caveats: dict[str, str] = {}
        for name, value in figures.items():
            if isinstance(value, float) and not math.isfinite(value):
                self.leave_undefined(name, not_finite)

    def add_ratio(self, name: str, numerator: float, denominator: float, why_not: str) -> None:
        """Add a ratio, undefined if `why_not` gives a reason."""
        if why_not or not math.isfinite(numerator):
            self.leave_undefined(name, why_not or "its numerator is NaN or infinite")
        else:
            self._figures[name] = numerator / denominator

    def leave_undefined(self, name: str, reason: str) -> None:
        """Mark a figure as undefined, with the reason."""
        self._figures[name] = None
        self._undefined[name] = reason

    def warn(self, name: str, caveat: str) -> None:
        """Add a caveat about a figure that is defined."""
        if self._figures.get(name) is not None:
            self._caveats[name] = caveat

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, with `undefined` and `caveats` by the names of their figures."""
        return self._figures | {"undefined": self._undefined, "caveats": self._caveats}
