"""What a training tells while it runs and when it ends, as plain data."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Literal, Protocol

Phase = Literal["preparing", "filling", "training", "evaluating", "exporting"]


class Stop(Protocol):
    """Asks a training to stop after the step it is at; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Return whether it shall stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is."""

    step: int
    """Optimiser steps done."""
    total_steps: int
    samples: int
    """Activations trained on, of each hook: steps times batch size."""
    total_samples: int
    samples_per_second: float
    """Over the steps since the last report; 0 before the first."""
    phase: Phase
    message: str = ""
    """A sentence for the user, where there is something to tell: what it went on from, a damaged checkpoint."""
    checkpoint_step: int = 0
    """Step of the newest checkpoint; 0 without one."""
    filled: int = 0
    """Activations read before the first step, of each hook: for the normalisation and the mixing buffer."""
    to_fill: int = 0
    """How many these are in all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsRow:
    """What one autoencoder's training looked like at one step. (sae, step) names a row.

    After a resume the rows since the checkpoint come again, equal but for the seconds: write them over the old.
    """

    sae: str
    step: int
    """Steps done when it was measured, that step included."""
    samples: int
    seconds: float
    """Since the training began, with the time of earlier runs up to the checkpoint resumed from."""
    loss: float
    losses: dict[str, float]
    """Summands of the loss, by sae-lens's names."""
    l0: float
    explained_variance: float
    """Of the step's batch: 1 - E|x - y|² / E|x - E x|²."""
    dead_latents: int
    learning_rate: float
    gradient_norm: float
    coefficients: dict[str, float]
    extra: dict[str, float] = dataclasses.field(default_factory=dict)
    """Whatever else the architecture tells, as `topk_threshold`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """What one autoencoder does on held-out sequences after a number of steps."""

    sae: str
    step: int
    samples: int
    figures: dict[str, Any]
    """By name, as `services.trainer.sae.evaluation` documents them; formulas are under `formulas`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)


Row = MetricsRow | EvaluationRow
OnRows = Callable[[list[Row]], None]
OnProgress = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """How a training ended."""

    finished: bool
    """False where it was stopped; it goes on from its newest checkpoint."""
    step: int
    samples: int
    seconds: float
    exports: dict[str, pathlib.Path]
    """Folder of each autoencoder by name, each a SAELens folder; none where it was stopped."""
    available_samples: int
    """Activations of each hook that there were to train on, each counted once; 0 where it was stopped."""
    checksums: dict[str, dict[str, str]]
    """The sha256 of each file in those folders by its name, of the bytes that were to be written."""
    evaluations: list[EvaluationRow]
    """The last of each autoencoder; none where it was stopped."""
    normalization: dict[str, dict[str, Any]]
    """What was estimated and folded into the weights, by autoencoder: `kind`, `scale`, `mean_norm`, `samples`."""
