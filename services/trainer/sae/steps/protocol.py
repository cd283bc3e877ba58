"""The protocol of a training step."""

from typing import NamedTuple, Protocol

import torch

from services.trainer.sae import configs


class StepResult(NamedTuple):
    """The result of one step, left on its device: reading a value (`.item()`) waits for the device."""

    loss: torch.Tensor
    """The minimised sum, before this step's change of the weights; shape ()."""
    losses: dict[str, torch.Tensor]
    """Its terms by SAELens's names (`mse_loss`, `l1_loss`, `auxiliary_reconstruction_loss` …); each of shape ()."""
    metrics: dict[str, torch.Tensor]
    """Empty unless requested. `l0`: mean number of active latents; `explained_variance`: 1 - E|x - y|² / E|x - E x|²
    of the batch, y being the output; `dead_latents`; `gradient_norm` before clipping; `topk_threshold` where there is
    one. Each of shape ().
    """


class StepState(NamedTuple):
    """The complete state of a step, for resuming: nothing else decides the next steps."""

    tensors: dict[str, torch.Tensor]
    """Weights (`parameters.…`), Adam's moments (`optimizer.…`), dead-latent counters, firing counts, threshold."""
    numbers: dict[str, float]
    """Steps done, and samples in the firing counts."""


class TrainingStep(Protocol):
    """Trains one autoencoder, one batch at a time.

    Learning rate and coefficients are functions of the number of steps done, so they need no state.
    """

    config: configs.SaeConfig
    sae: torch.nn.Module
    """The SAELens training class whose parameters are trained in place."""
    steps_done: int

    def __call__(self, batch: torch.Tensor, *, measure: bool = False) -> StepResult:
        """Take one step on activations of shape (batch, d_in), already normalised, on the step's device.

        `measure` also fills the metrics. The weights change before this returns, on a device asynchronously.
        """

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""

    def coefficients(self) -> dict[str, float]:
        """Return the warmed-up coefficients of the next step, by SAELens's names (`l1`, `l0`)."""

    def firing(self) -> tuple[torch.Tensor, int]:
        """Return how often each latent fired, shape (d_sae,), and the number of samples that this was counted over."""

    def dead(self) -> torch.Tensor:
        """Return which latents did not fire for longer than the window, boolean of shape (d_sae,)."""

    def state(self) -> StepState:
        """Return the state; its tensors are shared with the step: copy or write them before the next step."""

    def load(self, state: StepState) -> None:
        """Restore a state; raises `errors.FailedPrecondition` if it belongs to another configuration."""
