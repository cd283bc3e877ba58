"""The reference: SAELens's own forward pass and loss, differentiated by autograd. Trains every architecture."""

from typing import Any

import torch

from services.trainer.sae import architectures, configs
from services.trainer.sae.steps import base


class ReferenceStep(base.Step):
    """One step as `sae_lens.training.sae_trainer.SAETrainer` takes it."""

    def __init__(self, config: configs.SaeConfig, sae: Any, options: base.Options) -> None:
        super().__init__(config, sae, options)
        forward = sae.training_forward_pass
        self._forward = torch.compile(forward) if options.compile else forward

    def _compute(self, batch: torch.Tensor) -> base.Computed:
        self.sae.train()
        if self.config.architecture == "gated":
            # Its auxiliary loss uses the input as it is, while the other losses convert it to the weights' number
            # format.
            batch = batch.to(self.sae.W_dec.dtype)
        before = getattr(self.sae, "topk_threshold", None)
        with self._autocast():
            output = self._forward(
                step_input=architectures.import_sae_lens().saes.sae.TrainStepInput(
                    sae_in=batch,
                    coefficients=self.coefficients(),
                    dead_neuron_mask=self.dead(),
                    n_training_steps=self.steps_done,
                    is_logging_step=False,
                )
            )
        output.loss.backward()
        gradients = architectures.gradients(self.sae)
        self.sae.zero_grad()
        with torch.no_grad():
            acts = output.feature_acts.detach()
            lowest = None
            if before is not None:
                # The forward pass moved the threshold in a new tensor; the update is decided once, outside.
                self.sae.topk_threshold = before
                lowest = torch.where(acts > 0, acts, torch.inf).min()
            fired = (acts != 0).sum(0).float()
        losses = {name: value.detach() for name, value in output.losses.items()}
        error = output.sae_out.detach() - batch
        return base.Computed(output.loss.detach(), losses, gradients, fired, error, lowest)
