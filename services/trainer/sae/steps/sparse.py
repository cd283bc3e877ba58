"""Training steps of topk, batchtopk and matryoshka_batchtopk that compute with the active latents only.

SAELens multiplies six dense matrices per step: encoder and decoder, forward, and both sides backward. Here only the
encoder's forward product is dense; everything after the selection of latents uses the active pairs. Two facts save the
rest. Scaling scores by the decoder's norms and activations back by them cancels, so that no gradient passes through
the norms. The gradient of the input bias needs only the sum over the batch of the latents' gradients.

Losses: arXiv 2406.04093 (topk), 2412.06410 (batchtopk), 2503.17547 (matryoshka), as in sae-lens 6.54.
"""

from typing import Any, NamedTuple

import torch

from services.trainer.sae import configs
from services.trainer.sae.steps import aux_loss, base, sparse_activations, topk

_CHECK_EVERY = 50


class _Decoded(NamedTuple):
    """Reconstructions of one batch, minus the batch."""

    errors: torch.Tensor
    """(batch, widths, d_in)."""
    part_gradients: torch.Tensor
    """Gradient of the loss by the contribution of each level to the reconstruction; (batch * widths, d_in)."""
    act_gradients: torch.Tensor
    """Gradient of the loss by the activations; (pairs,)."""


class TopkStep(base.Step):
    """A step of the topk family: loss and gradients equal to the reference's, except for rounding and ties."""

    def __init__(self, config: configs.SaeConfig, sae: Any, options: base.Options) -> None:
        super().__init__(config, sae, options)
        self._encoder, self._decoder = self._leaves["W_enc.T"], self._leaves["W_dec"]
        self._b_enc, self._b_dec = self._leaves["b_enc"], self._leaves["b_dec"]
        self._hidden = torch.empty(0)
        self._compiled: Any = torch.compile(_scores) if options.compile else None
        self._hint = 0.0
        self._revival_checked, self._revival_due = 0, False
        nested = config.architecture == "matryoshka_batchtopk"
        self._widths = config.matryoshka_widths if nested else (config.d_sae,)
        self._ends = torch.tensor(self._widths, device=self._decoder.device) if nested else None

    @torch.no_grad()
    def _compute(self, batch: torch.Tensor) -> base.Computed:
        target = batch.to(self._decoder.dtype)
        encoded = self._encode(target)
        active = self._select(encoded.scores)
        scores = encoded.scores[active.rows, active.latents]
        positive = scores > 0
        acts = torch.where(positive, scores, 0.0)
        if encoded.norms is not None:
            acts = acts / encoded.norms[active.latents]
        decoded = self._decode(active, acts, target)
        errors = decoded.errors.unbind(1)
        act_gradients = torch.where(positive, decoded.act_gradients, 0.0)
        gradients = aux_loss.Gradients(
            active.per_latent(act_gradients, encoded.centred),
            active.per_latent(acts, decoded.part_gradients),
            active.total(act_gradients),
        )
        losses = {"mse_loss": _mean_square(errors[-1])}
        losses["auxiliary_reconstruction_loss"] = self._add_aux_loss(encoded, errors, gradients)
        for width, error in zip(self._widths[:-1], errors[:-1], strict=True):
            losses[f"inner_mse_loss_{width}"] = _mean_square(error)
        return base.Computed(
            torch.stack(list(losses.values())).sum(),
            losses,
            {
                "b_dec": self._bias_gradient(decoded.errors, gradients.bias),
                "W_dec": gradients.decoder,
                "W_enc.T": gradients.encoder,
                "b_enc": gradients.bias,
            },
            active.total(positive.float()),
            errors[-1],
            self._lowest(scores, positive),
        )

    def _encode(self, target: torch.Tensor) -> aux_loss.Encoded:
        centred = target - self._b_dec if self.config.apply_b_dec_to_input else target
        norms = self._decoder.norm(dim=-1) if self.config.rescale_acts_by_decoder_norm else None
        return aux_loss.Encoded(centred, self._scores(centred, norms), norms, self._decoder)

    def _scores(self, centred: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
        if self._compiled is not None:
            with self._autocast():
                compiled: torch.Tensor = self._compiled(centred, self._encoder, self._b_enc, norms)
                return compiled
        if self._options.autocast:
            with self._autocast():
                return _scores(centred, self._encoder, self._b_enc, norms)
        shape = (len(centred), self.config.d_sae)
        if self._hidden.shape != shape:
            # Reused in every step: memory of this size would otherwise be freed and faulted in each time.
            self._hidden = centred.new_empty(shape)
        scores = torch.addmm(self._b_enc, centred, self._encoder.t(), out=self._hidden)
        return scores if norms is None else scores.mul_(norms)

    def _select(self, scores: torch.Tensor) -> sparse_activations.SparseActivations:
        batch, d_sae = scores.shape
        if self.config.architecture == "topk":
            latents = topk.topk_per_row(scores, int(self.config.k))
            rows = torch.arange(batch, device=scores.device).repeat_interleave(latents.shape[1])
            return sparse_activations.SparseActivations(rows, latents.view(-1), batch, d_sae)
        flat = topk.topk_per_batch(scores, int(self.config.k * batch), self._hint)
        if not base.reads_values(scores):
            flat = flat.sort().values
        return sparse_activations.SparseActivations(flat // d_sae, flat % d_sae, batch, d_sae, self._ends)

    def _decode(
        self, active: sparse_activations.SparseActivations, acts: torch.Tensor, target: torch.Tensor
    ) -> _Decoded:
        """Reconstruct at every width; a level contributes to its own width and all larger ones."""
        batch, d_in = target.shape
        parts, back = active.decoded(acts, self._decoder)
        errors = parts.view(batch, -1, d_in)
        if self._ends is not None:
            errors = errors.cumsum(1)
        errors = errors + (self._b_dec - target)[:, None]
        gradients = errors * (2 / batch)
        if self._ends is not None:
            gradients = gradients.flip(1).cumsum(1).flip(1)
        gradients = gradients.reshape(-1, d_in)
        return _Decoded(errors, gradients, back(gradients))

    def _bias_gradient(self, errors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        gradient = errors.sum((0, 1)) * (2 / len(errors))
        return gradient - bias @ self._encoder if self.config.apply_b_dec_to_input else gradient

    def _add_aux_loss(
        self, encoded: aux_loss.Encoded, errors: tuple[torch.Tensor, ...], gradients: aux_loss.Gradients
    ) -> torch.Tensor:
        loss = errors[0].new_zeros(())
        dead = self.dead()
        if not self._needs_aux_loss(dead):
            return loss
        by_width = self.config.architecture == "matryoshka_batchtopk" and self.config.use_matryoshka_aux_loss
        spans = list(zip((0, *self._widths[:-1]), self._widths, strict=True)) if by_width else [(0, self.config.d_sae)]
        with self._autocast():
            for span, error in zip(spans, errors if by_width else errors[-1:], strict=True):
                loss = loss + aux_loss.add_aux_loss(
                    encoded, -error, dead, self.config.aux_loss_coefficient, gradients, span
                )
        return loss

    def _needs_aux_loss(self, dead: torch.Tensor) -> bool:
        """Return whether latents may be dead. On a device, their counters are read only once in many steps.

        A latent that last fired c steps ago cannot die within the next (window - c) steps. If one may die, or has, the
        loss is computed for a while without reading, and is 0 if none is dead.
        """
        if base.reads_values(dead):
            return bool(dead.any())
        if self.steps_done >= self._revival_checked:
            left = self._options.dead_feature_window - int(self._since_fired.max())
            self._revival_due = left < _CHECK_EVERY
            self._revival_checked = self.steps_done + (_CHECK_EVERY if self._revival_due else left + 1)
        return self._revival_due

    def _lowest(self, scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor | None:
        if self.config.architecture == "topk":
            return None
        lowest = torch.where(positive, scores, torch.inf)
        lowest = lowest.min() if len(lowest) else scores.new_full((), torch.inf)
        if base.reads_values(scores):
            # Slightly lower, so that the next, somewhat different batch has enough above it.
            self._hint = 0.9 * float(lowest) if bool(lowest.isfinite()) else 0.0
        return lowest


def _scores(
    centred: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor, norms: torch.Tensor | None
) -> torch.Tensor:
    hidden = centred @ encoder.t() + bias
    return hidden if norms is None else hidden * norms


def _mean_square(error: torch.Tensor) -> torch.Tensor:
    return error.square().sum(-1).mean()
