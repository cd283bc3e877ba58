"""Ratios, and why one is undefined: whatever divides by almost nothing is noise, however many digits it has.

A denominator is almost nothing where it is not finite, where it is no more than rounding makes of 0 in the number
format of what was computed, or where it lies within three of its standard errors of 0: the ratio's own relative error
is at least a third then. An undefined ratio is None, beside the reason.
"""

import dataclasses
import math
from typing import Any

import torch

STANDARD_ERRORS = 3.0
"""A mean within so many of its standard errors of a value is not told from that value."""


@dataclasses.dataclass
class Mean:
    """The mean of numbers that came in parts, and its standard error, the numbers taken as independent; in float64."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: torch.Tensor) -> None:
        """Take numbers in; wait for the device."""
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
    """Why nothing can be divided by a value; empty if it can. `what` begins the sentence.

    `error` is the value's standard error, `rounding` what rounding alone may make of 0.
    """
    if not math.isfinite(value):
        return f"{what} is NaN or infinite"
    if abs(value) <= rounding:
        return f"{what} is {value:.3g}, which is 0 within rounding"
    if not math.isfinite(error):
        return f"{what} is {value:.3g}, measured once"
    if abs(value) <= STANDARD_ERRORS * error:
        return f"{what} is {value:.3g} with a standard error of {error:.2g}, which cannot be told from 0"
    return ""


class Figures:
    """Figures by name; those that are undefined are None, and `undefined` says why."""

    def __init__(self, not_finite: str = "it is NaN or infinite", **figures: Any) -> None:
        """`not_finite` is why those of `figures` are undefined that are NaN or infinite."""
        self._figures = figures
        self._undefined: dict[str, str] = {}
        self._caveats: dict[str, str] = {}
        for name, value in figures.items():
            if isinstance(value, float) and not math.isfinite(value):
                self.leave_undefined(name, not_finite)

    def add_ratio(self, name: str, numerator: float, denominator: float, why_not: str) -> None:
        """Add a ratio, or that it is undefined where `why_not` says why."""
        if why_not or not math.isfinite(numerator):
            self.leave_undefined(name, why_not or "its numerator is NaN or infinite")
        else:
            self._figures[name] = numerator / denominator

    def leave_undefined(self, name: str, reason: str) -> None:
        """Return why a figure is undefined."""
        self._figures[name] = None
        self._undefined[name] = reason

    def warn(self, name: str, caveat: str) -> None:
        """Return what is to be known of a figure that is defined."""
        if self._figures.get(name) is not None:
            self._caveats[name] = caveat

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, and `undefined` and `caveats` by the names of those they are about."""
        return self._figures | {"undefined": self._undefined, "caveats": self._caveats}
