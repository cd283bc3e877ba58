"""Training steps of standard and jumprelu, whose latents are active above a threshold.

The number of active latents changes: at first half of them, in the end one in a hundred. While there are many, five
dense products remain of SAELens's six: the gradient of the input bias needs only the sum of the latents' gradients
over the batch. Once there are few, on a processor, the encoder's forward product is the only dense one, as in
`sparse`. The choice depends on the batch alone.

Losses: arXiv 2309.08600 with decoder norms (standard), 2407.14435 (jumprelu), as in sae-lens 6.54. jumprelu's
threshold learns from pre-activations within half a bandwidth of it (straight-through estimator).
"""

from typing import Any, NamedTuple

import torch

from services.trainer.sae import configs
from services.trainer.sae.steps import base, sparse_activations

_FEW = 1 / 20
"""Share of active latents up to which pairs are faster than dense products, measured on two cores."""


def is_supported(config: configs.SaeConfig) -> bool:
    """Return whether a configuration uses nothing that only the reference computes."""
    if config.architecture == "standard":
        return config.lp_norm == 1
    plain = config.jumprelu_sparsity_loss_mode != "tanh" and config.pre_act_loss_coefficient is None
    return config.architecture == "jumprelu" and plain and not config.jumprelu_ste_to_input


class _All:
    """All latents of every vector: products as in `sparse_activations.SparseActivations`, but dense."""

    def decoded(self, values: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, sparse_activations.Back]:
        """Return `values @ weights`, and the function that maps its gradient to that of the values."""
        return values @ weights, lambda gradient: (gradient @ weights.t()).to(values.dtype)

    def per_latent(self, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Sum values times rows for every latent."""
        return (values.t() @ table).to(table.dtype)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum the values of every latent."""
        return values.sum(0)

    def per_row(self, values: torch.Tensor) -> torch.Tensor:
        """Sum the values of every row."""
        return values.sum(1)

    def of_latent(self, values: torch.Tensor) -> torch.Tensor:
        """Broadcast values of latents."""
        return values

    def of_row(self, values: torch.Tensor) -> torch.Tensor:
        """Broadcast values of rows."""
        return values[:, None]


class _Penalty(NamedTuple):
    """The sparsity penalty of a batch."""

    loss: torch.Tensor
    acts: torch.Tensor | None = None
    """Its contribution to the gradients of activations."""
    decoder: torch.Tensor | None = None
    """Its contribution to the gradients of the decoder."""
    threshold: torch.Tensor | None = None
    """Its contribution to the gradients of the thresholds, including that of the error."""


class ReluStep(base.Step):
    """A step of standard or jumprelu: loss and gradients equal to the reference's, except for rounding."""

    def __init__(self, config: configs.SaeConfig, sae: Any, options: base.Options) -> None:
        super().__init__(config, sae, options)
        self._encoder, self._decoder = self._leaves["W_enc.T"], self._leaves["W_dec"]
        self._b_enc, self._b_dec = self._leaves["b_enc"], self._leaves["b_dec"]
        self._threshold = self._leaves.get("threshold")
        self._hidden = torch.empty(0)

    @torch.no_grad()
    def _compute(self, batch: torch.Tensor) -> base.Computed:
        with self._autocast():
            return self._computed(batch.to(self._decoder.dtype))

    def _computed(self, target: torch.Tensor) -> base.Computed:
        centred = target - self._b_dec if self.config.apply_b_dec_to_input else target
        thresholds = None
        if self._threshold is not None:
            # Below zero the gate would pass negative pre-activations; SAELens projects at the same moment.
            thresholds = self._threshold.clamp_(min=0.0).to(target.dtype)
        support, hidden = self._supported(self._encoded(centred), thresholds)
        active = hidden > (0 if thresholds is None else support.of_latent(thresholds))
        acts = torch.where(active, hidden, 0.0)
        output, back = support.decoded(acts, self._decoder)
        error = output + self._b_dec - target
        error_gradient = error * (2 / len(target))
        act_gradients = back(error_gradient)
        if thresholds is None:
            penalty = self._l1(support, acts, len(target))
        else:
            penalty = self._l0(support, hidden, thresholds, act_gradients, len(target))
        if penalty.acts is not None:
            act_gradients = act_gradients + penalty.acts
        hidden_gradients = torch.where(active, act_gradients, 0.0)
        decoder = support.per_latent(acts, error_gradient)
        bias = support.total(hidden_gradients)
        b_dec = error_gradient.sum(0)
        gradients = {
            "b_dec": b_dec - bias @ self._encoder if self.config.apply_b_dec_to_input else b_dec,
            "W_dec": decoder if penalty.decoder is None else decoder.add_(penalty.decoder),
            "W_enc.T": support.per_latent(hidden_gradients, centred),
            "b_enc": bias,
        }
        if penalty.threshold is not None:
            gradients["threshold"] = penalty.threshold.float()
        losses = {"mse_loss": error.square().sum(-1).mean()}
        losses["l1_loss" if thresholds is None else "l0_loss"] = penalty.loss
        fired = support.total(active.float())
        return base.Computed(torch.stack(list(losses.values())).sum(), losses, gradients, fired, error)

    def _encoded(self, centred: torch.Tensor) -> torch.Tensor:
        if self._options.autocast:
            return centred @ self._encoder.t() + self._b_enc
        shape = (len(centred), self.config.d_sae)
        if self._hidden.shape != shape:
            self._hidden = centred.new_empty(shape)
        return torch.addmm(self._b_enc, centred, self._encoder.t(), out=self._hidden)

    def _supported(
        self, hidden: torch.Tensor, thresholds: torch.Tensor | None
    ) -> tuple[_All | sparse_activations.SparseActivations, torch.Tensor]:
        """Return only the latents that a gradient passes through, if they are few."""
        if not base.reads_values(hidden):
            return _All(), hidden
        lowest = 0 if thresholds is None else thresholds - self.config.jumprelu_bandwidth / 2
        passing = hidden > lowest
        if int(passing.sum()) > _FEW * passing.numel():
            return _All(), hidden
        flat = passing.view(-1).nonzero().view(-1)
        batch, d_sae = hidden.shape
        return sparse_activations.SparseActivations(flat // d_sae, flat % d_sae, batch, d_sae), hidden.view(-1)[flat]

    def _l1(self, support: _All | sparse_activations.SparseActivations, acts: torch.Tensor, batch: int) -> _Penalty:
        factor = self.coefficients()["l1"] / batch
        norms = self._decoder.norm(dim=1)
        totals = support.total(acts)
        loss = factor * (totals * norms).sum()
        decoder = (factor * totals / norms)[:, None] * self._decoder
        return _Penalty(loss, support.of_latent(factor * norms), decoder)

    def _l0(
        self,
        support: _All | sparse_activations.SparseActivations,
        hidden: torch.Tensor,
        thresholds: torch.Tensor,
        act_gradients: torch.Tensor,
        batch: int,
    ) -> _Penalty:
        coefficient, width = self.coefficients()["l0"], self.config.jumprelu_bandwidth
        own = support.of_latent(thresholds)
        counts = support.per_row((hidden > own).to(hidden.dtype))
        slopes, losses = torch.ones_like(counts), counts
        if self.config.jumprelu_sparsity_loss_mode == "quadratic":
            wanted = float(self.config.target_l0 or 1)
            slopes, losses = 4 / wanted * (counts - wanted), 2 / wanted * (counts - wanted).square()
        near = ((hidden - own) / width).abs() < 0.5
        slopes = support.of_row(slopes * (coefficient / batch))
        estimated = torch.where(near, (own * act_gradients + slopes) / -width, 0.0)
        return _Penalty(coefficient * losses.mean(), threshold=support.total(estimated))
