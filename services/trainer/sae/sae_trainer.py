"""One autoencoder within a training: its step, its normalisation, and whether its loss is finite."""

import math
import pathlib
import shutil

import torch

from polytok import errors
from services.trainer.sae import configs, export
from services.trainer.sae.data.dataset import CheckpointState
from services.trainer.sae.evaluation.evaluator import Autoencoder
from services.trainer.sae.normalization import Normalization
from services.trainer.sae.reports import MetricsRow
from services.trainer.sae.steps import protocol

_NONE = -1
_OWN_COLUMNS = frozenset({"l0", "explained_variance", "dead_latents", "gradient_norm"})


class SaeTrainer:
    """A planned autoencoder being trained."""

    def __init__(self, planned: configs.PlannedSae, step: protocol.TrainingStep, normalization: Normalization) -> None:
        self.planned = planned
        self.step = step
        self.normalization = normalization
        self._outcome: protocol.StepResult | None = None
        self._first_bad: torch.Tensor | None = None
        self._rate = 0.0
        self._coefficients: dict[str, float] = {}

    @property
    def name(self) -> str:
        """The autoencoder's name."""
        return self.planned.name

    def train(self, activations: torch.Tensor, step: int, *, measure: bool) -> None:
        """Take the `step`-th step on normalised activations of shape (batch, d_in)."""
        # Autograd rejects tensors made under torch.inference_mode; a buffer's batch is its own tensor and passes
        # unchanged.
        activations = activations.clone() if activations.is_inference() else activations
        self._rate, self._coefficients = self.step.learning_rate(), self.step.coefficients()
        self._outcome = self.step(activations, measure=measure)
        bad = torch.where(self._outcome.loss.isfinite(), _NONE, step)
        # Stays on the device: reading it waits for the device, and not every step reads it.
        before = self._first_bad
        self._first_bad = bad if before is None else torch.where(before == _NONE, bad, before)

    def first_bad_step(self) -> int:
        """Return the first step at which the loss was NaN or infinite, or 0; waits for the device."""
        return 0 if self._first_bad is None else max(0, int(self._first_bad))

    @torch.no_grad()
    def has_finite_weights(self) -> bool:
        """Return whether no weight is NaN or infinite; waits for the device."""
        return bool(torch.stack([parameter.isfinite().all() for parameter in self.step.sae.parameters()]).all())

    def row(self, step: int, samples: int, seconds: float) -> MetricsRow:
        """Return the metrics of the step just taken with `measure`; waits for the device."""
        assert self._outcome is not None
        measured = {name: float(value) for name, value in self._outcome.metrics.items()}
        return MetricsRow(
            sae=self.name,
            step=step,
            samples=samples,
            seconds=seconds,
            loss=float(self._outcome.loss),
            losses={name: float(value) for name, value in self._outcome.losses.items()},
            l0=measured.get("l0", math.nan),
            explained_variance=measured.get("explained_variance", math.nan),
            dead_latents=int(measured.get("dead_latents", 0)),
            learning_rate=self._rate,
            gradient_norm=measured.get("gradient_norm", math.nan),
            coefficients=self._coefficients,
            extra={name: value for name, value in measured.items() if name not in _OWN_COLUMNS},
        )

    def inference(self) -> Autoencoder:
        """Return the exported autoencoder, for activations as the model produces them; shares no weights."""
        sae = export.inference(self.step.sae, self.normalization)
        sae.eval().requires_grad_(False)
        return Autoencoder(self.planned.hook, self.planned.sae.d_sae, sae.encode, sae.decode)

    def export(self, origin: export.Origin, firing: export.Firing, folder: pathlib.Path) -> dict[str, str]:
        """Export it in SAELens's format; the folder is replaced atomically.

        Returns the sha256 of each file by its name.
        """
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        written = export.write(self.step.sae, self.normalization, origin, firing, part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        return written

    def state(self) -> CheckpointState:
        """Return weights, optimiser, counters and normalisation; the tensors are shared."""
        step = self.step.state()
        state = CheckpointState()
        state.add("step", CheckpointState(step.tensors, dict(step.numbers)))
        state.add("normalization", self.normalization.state())
        return state

    def load(self, state: CheckpointState, device: str) -> None:
        """Restore a state."""
        step = state.part("step")
        self.step.load(protocol.StepState(step.tensors, step.values))
        self.normalization = Normalization.from_state(state.part("normalization")).to(device)
        self._first_bad = None


def diverged_error(planned: configs.PlannedSae, what: str, kept_step: int) -> errors.FailedPrecondition:
    """Return the error for a training whose numbers are not finite; `kept_step` is the newest checkpoint, or 0."""
    optimizer = planned.optimizer
    kept = f"The checkpoint of step {kept_step:,} is kept." if kept_step else "There is no earlier checkpoint."
    hints = [f"a lower optimizer.lr (now {optimizer.lr:g})"]
    if optimizer.gradient_clip is None:
        hints.append("optimizer.gradient_clip 1")
    hints.append(f"a longer optimizer.lr_warm_up_steps (now {optimizer.lr_warm_up_steps})")
    if planned.sae.normalize_activations == "none":
        hints.append("sae.normalize_activations expected_average_only_in")
    return errors.FailedPrecondition(
        f"{planned.name}: {what}. {kept} Start a new training; {', '.join(hints)} may help.",
        reason="NOT_FINITE",
        metadata={"sae": planned.name, "checkpoint_step": str(kept_step)},
    )
