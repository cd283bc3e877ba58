"""What all training steps share besides loss and gradients: counters, clipping, Adam, schedules, state."""

import abc
import contextlib
from typing import Any, NamedTuple

import torch

from services.trainer.sae import architectures, configs, schedules
from services.trainer.sae.steps import adam, protocol, reduction


def reads_values(tensor: torch.Tensor) -> bool:
    """Return whether reading a tensor's values is free, as on a processor.

    Reading from a device would wait for it and leave it idle; there, steps use shapes that are known in advance.
    """
    return tensor.device.type == "cpu"


class Options(NamedTuple):
    """Options of a step that do not change what it trains."""

    optimizer: configs.OptimizerConfig
    total_steps: int
    dead_feature_window: int = 1000
    feature_sampling_window: int = 2000
    autocast: bool = False
    compile: bool = False
    shared: bool = True
    """Whether the processes of a group, if there is one, train it together."""


class Computed(NamedTuple):
    """Loss and gradients of one batch."""

    loss: torch.Tensor
    losses: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    """By the names of `architectures.leaves`."""
    fired: torch.Tensor
    """How many vectors each latent was active for; shape (d_sae,), float32."""
    error: torch.Tensor
    """Reconstruction minus activations, shape (batch, d_in)."""
    lowest: torch.Tensor | None = None
    """The smallest positive activation of batchtopk, infinite if there is none; shape ()."""


class Step(abc.ABC):
    """A training step (see `protocol.TrainingStep`) whose subclass computes loss and gradients."""

    def __init__(self, config: configs.SaeConfig, sae: Any, options: Options) -> None:
        self.config = config
        self.sae = sae
        self.steps_done = 0
        self._options = options
        self._leaves = architectures.leaves(sae)
        self._adam = adam.Adam(self._leaves, options.optimizer)
        self._reduction = reduction.Reduction(shared=options.shared)
        device = sae.W_dec.device
        self._since_fired = torch.zeros(config.d_sae, dtype=torch.float32, device=device)
        self._firings = torch.zeros(config.d_sae, dtype=torch.float64, device=device)
        self._firing_samples = 0

    @abc.abstractmethod
    def _compute(self, batch: torch.Tensor) -> Computed:
        """Compute loss and gradients at the current weights; changes nothing else."""

    def __call__(self, batch: torch.Tensor, *, measure: bool = False) -> protocol.StepResult:
        """Take one step; see `protocol.TrainingStep`."""
        if self.steps_done and self.steps_done % self._options.feature_sampling_window == 0:
            self._firings.zero_()
            self._firing_samples = 0
        # Activations stored in half precision are converted to the weights' number format.
        batch = batch.to(torch.promote_types(batch.dtype, self.sae.W_dec.dtype))
        computed = self._compute(batch)
        with torch.no_grad():
            self._reduction.mean(computed.gradients.values())
            self._count(computed, len(batch))
            metrics = self._metrics(batch, computed) if measure else {}
            norm = self._adam.step(computed.gradients, self.learning_rate())
        self.steps_done += 1
        metrics |= {"gradient_norm": norm} if measure else {}
        return protocol.StepResult(computed.loss, computed.losses, metrics)

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        return schedules.learning_rate(self._options.optimizer, self._options.total_steps, self.steps_done)

    def coefficients(self) -> dict[str, float]:
        """Return the coefficients of the next step."""
        return schedules.coefficients(self.config, self.steps_done)

    def firing(self) -> tuple[torch.Tensor, int]:
        """Return the firing counts and their number of samples."""
        return self._firings, self._firing_samples

    def dead(self) -> torch.Tensor:
        """Mark the dead latents."""
        return self._since_fired > self._options.dead_feature_window

    def state(self) -> protocol.StepState:
        """Return the state."""
        return protocol.StepState(
            self._tensors(), {"steps_done": self.steps_done, "firing_samples": self._firing_samples}
        )

    def load(self, state: protocol.StepState) -> None:
        """Restore a state."""
        adam.copy_into(self._tensors(), state.tensors)
        self.steps_done = int(state.numbers["steps_done"])
        self._firing_samples = int(state.numbers["firing_samples"])

    def _tensors(self) -> dict[str, torch.Tensor]:
        found = {f"parameters.{name}": value for name, value in self._leaves.items()}
        found |= {f"optimizer.{name}": value for name, value in self._adam.tensors().items()}
        found |= {"since_fired": self._since_fired, "firings": self._firings}
        if "topk_threshold" in dict(self.sae.named_buffers()):
            found["topk_threshold"] = self.sae.topk_threshold
        return found

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self._options.autocast:
            return contextlib.nullcontext()
        return torch.autocast(device_type=self.sae.W_dec.device.type, dtype=torch.bfloat16)

    def _count(self, computed: Computed, samples: int) -> None:
        """Count firings as SAELens does, and update the threshold of batchtopk."""
        fired = self._reduction.sum(computed.fired)
        self._since_fired.add_(1).mul_(fired == 0)
        self._firings += fired
        self._firing_samples += samples * self._reduction.size
        if computed.lowest is not None:
            threshold, lowest = self.sae.topk_threshold, computed.lowest.to(torch.float64)
            rate = self.config.topk_threshold_lr
            moved = (1 - rate) * threshold + rate * lowest
            threshold.copy_(torch.where(lowest.isfinite(), moved, threshold))
            self._reduction.mean([threshold])

    def _metrics(self, batch: torch.Tensor, computed: Computed) -> dict[str, torch.Tensor]:
        target = batch.float() if batch.dtype == torch.bfloat16 else batch
        variance = (target - target.mean(0)).square().sum()
        # A batch that is constant but for rounding has no explained variance.
        varies = variance > torch.finfo(target.dtype).eps ** 2 * target.square().sum()
        metrics = {
            "l0": computed.fired.sum() / (len(batch) * self._reduction.size),
            "explained_variance": torch.where(varies, 1 - computed.error.square().sum() / variance, torch.nan),
            "dead_latents": self.dead().sum(),
        }
        return metrics | ({} if computed.lowest is None else {"topk_threshold": self.sae.topk_threshold.clone()})
