"""The reports and the result of a training, as plain data."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Literal, Protocol

Phase = Literal["preparing", "filling", "training", "evaluating", "exporting"]


class Stop(Protocol):
    """Requests a training to stop after the current step; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Return whether to stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a training."""

    step: int
    """Optimiser steps done."""
    total_steps: int
    samples: int
    """Activations of each hook trained on: steps times batch size."""
    total_samples: int
    samples_per_second: float
    """Rate over the steps since the last report; 0 before the first."""
    phase: Phase
    message: str = ""
    """A sentence for the user, if there is something to say: the checkpoint resumed from, a damaged checkpoint."""
    checkpoint_step: int = 0
    """Step of the newest checkpoint; 0 without one."""
    filled: int = 0
    """Activations of each hook read before the first step, for the normalisation and the activation buffer."""
    to_fill: int = 0
    """Total number of these."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsRow:
    """The metrics of one autoencoder at one step. (sae, step) identifies a row.

    After a resume the rows since the checkpoint are reported again, equal but for the seconds: overwrite the old ones.
    """

    sae: str
    step: int
    """Steps done when it was measured, including that step."""
    samples: int
    seconds: float
    """Seconds since the training began, including earlier runs up to the checkpoint resumed from."""
    loss: float
    losses: dict[str, float]
    """Terms of the loss, by SAELens's names."""
    l0: float
    explained_variance: float
    """Of the step's batch: 1 - E|x - y|² / E|x - E x|²."""
    dead_latents: int
    learning_rate: float
    gradient_norm: float
    coefficients: dict[str, float]
    extra: dict[str, float] = dataclasses.field(default_factory=dict)
    """Additional metrics of the architecture, such as `topk_threshold`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """The evaluation of one autoencoder on held-out sequences after a number of steps."""

    sae: str
    step: int
    samples: int
    figures: dict[str, Any]
    """Figures by name, as documented in `services.trainer.sae.evaluation`; formulas are under `formulas`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)


Row = MetricsRow | EvaluationRow
OnRows = Callable[[list[Row]], None]
OnProgress = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a training."""

    finished: bool
    """False if it was stopped; it resumes from its newest checkpoint."""
    step: int
    samples: int
    seconds: float
    exports: dict[str, pathlib.Path]
    """Folder of each autoencoder by name, in SAELens's format; empty if it was stopped."""
    available_samples: int
    """Number of activations of each hook available for training, each counted once; 0 if it was stopped."""
    checksums: dict[str, dict[str, str]]
    """The sha256 of each file in those folders by its name, of the bytes in memory."""
    evaluations: list[EvaluationRow]
    """The last evaluation of each autoencoder; empty if it was stopped."""
    normalization: dict[str, dict[str, Any]]
    """The normalisation folded into the weights, by autoencoder: `kind`, `scale`, `mean_norm`, `samples`."""
