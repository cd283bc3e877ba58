"""What a training step is to the loop that calls it."""

from typing import NamedTuple, Protocol

import torch

from services.trainer.sae import configs


class StepResult(NamedTuple):
    """What one step computed, left on its device: reading a value (`.item()`) is what waits for the device."""

    loss: torch.Tensor
    """The sum that was minimised, before this step's change of the weights; shape ()."""
    losses: dict[str, torch.Tensor]
    """Its summands by sae-lens's names (`mse_loss`, `l1_loss`, `auxiliary_reconstruction_loss` …); each of shape ()."""
    metrics: dict[str, torch.Tensor]
    """Empty unless asked for. `l0`: mean number of active latents; `explained_variance`: 1 - E|x - y|² / E|x - E x|² of
    the batch, y being the output; `dead_latents`; `gradient_norm` before clipping; `topk_threshold` where there is one.
    Each of shape ()."""


class StepState(NamedTuple):
    """All that a step needs in order to go on: nothing else decides what the next steps do."""

    tensors: dict[str, torch.Tensor]
    """Weights (`parameters.…`), Adam's moments (`optimizer.…`), dead-latent counters, firing counts, threshold."""
    numbers: dict[str, float]
    """Steps done, and samples in the firing counts."""


class TrainingStep(Protocol):
    """Trains one autoencoder by one batch at a time.

    Learning rate and coefficients are functions of the number of steps done, so that they need no state.
    """

    config: configs.SaeConfig
    sae: torch.nn.Module
    """The sae-lens training class whose parameters are trained in place."""
    steps_done: int

    def __call__(self, batch: torch.Tensor, *, measure: bool = False) -> StepResult:
        """Take one step on activations of shape (batch, d_in), already normalised, on the step's device.

        `measure` also fills the metrics. The weights change before this returns, on a device asynchronously.
        """

    def learning_rate(self) -> float:
        """Tell the rate that the next step will use."""

    def coefficients(self) -> dict[str, float]:
        """Tell the warmed-up coefficients that the next step will use, by sae-lens's names (`l1`, `l0`)."""

    def firing(self) -> tuple[torch.Tensor, int]:
        """Return how often each latent fired, shape (d_sae,), and the number of samples that this was counted over."""

    def dead(self) -> torch.Tensor:
        """Mark latents that did not fire for longer than the window, boolean of shape (d_sae,)."""

    def state(self) -> StepState:
        """Return the state, its tensors shared with the step: copy or write them before the next step."""

    def load(self, state: StepState) -> None:
        """Go on from a state; raises `errors.FailedPrecondition` where it is of another configuration."""
