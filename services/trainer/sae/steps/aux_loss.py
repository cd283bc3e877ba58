"""The auxiliary loss that revives dead latents: they reconstruct the residual of the live ones.

Source: arXiv 2406.04093, appendix A.2, as in SAELens (no normalisation by variance). Loss and gradients in one pass.
"""

from typing import NamedTuple

import torch

from services.trainer.sae.steps import base


class Encoded(NamedTuple):
    """The encoder's output for a batch, and the weights of the loss."""

    centred: torch.Tensor
    """The encoder's input, (batch, d_in)."""
    scores: torch.Tensor
    """Pre-activations, multiplied by the decoder's norms where these count; (batch, d_sae)."""
    norms: torch.Tensor | None
    """The decoder's norms, (d_sae,); None if scores are plain pre-activations."""
    decoder: torch.Tensor
    """(d_sae, d_in)."""


class Gradients(NamedTuple):
    """Gradients by latent, which are accumulated."""

    encoder: torch.Tensor
    """(d_sae, d_in)."""
    decoder: torch.Tensor
    """(d_sae, d_in)."""
    bias: torch.Tensor
    """(d_sae,)."""


def add_aux_loss(
    encoded: Encoded,
    residual: torch.Tensor,
    dead: torch.Tensor,
    coefficient: float,
    gradients: Gradients,
    span: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Add the gradients of the dead latents' loss, within a span of latents, and return the loss, shape ().

    `residual` (batch, d_in) is their target; `dead` marks them, (d_sae,). On a processor only their columns are
    computed. Elsewhere no value is read: all columns take part, with weight 0 for live latents.
    """
    first, last = span or (0, len(dead))
    if base.reads_values(dead):
        columns = dead[first:last].nonzero().view(-1) + first
        if not len(columns):
            return residual.new_zeros(())
        return _add(encoded, residual, columns, None, coefficient, gradients)
    columns = torch.arange(first, last, device=dead.device)
    return _add(encoded, residual, columns, dead[first:last], coefficient, gradients)


def _add(
    encoded: Encoded,
    residual: torch.Tensor,
    columns: torch.Tensor,
    taking_part: torch.Tensor | None,
    coefficient: float,
    gradients: Gradients,
) -> torch.Tensor:
    batch, d_in = residual.shape
    scores = encoded.scores.index_select(1, columns)
    mask = None
    wanted = d_in // 2
    if taking_part is not None:
        scores = scores.masked_fill(~taking_part, -torch.inf)
        count = taking_part.sum().to(residual.dtype)
        scale = (count / wanted).clamp(max=1.0)
        mask = taking_part.expand_as(scores)
    else:
        scale = residual.new_tensor(min(len(columns) / wanted, 1.0))
    if wanted < len(columns):
        chosen = scores.topk(wanted, dim=-1, sorted=False).indices
        ranked = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, 1)
        mask = ranked if mask is None else ranked & mask
    if mask is not None:
        scores = scores.masked_fill(~mask, 0.0)
    acts = scores if encoded.norms is None else scores / encoded.norms[columns]
    decoder = encoded.decoder[columns]
    error = acts @ decoder - residual
    factor = coefficient * scale
    loss = factor * error.square().sum(-1).mean()
    error = error * (2 * factor / batch)
    gradients.decoder.index_add_(0, columns, (acts.t() @ error).to(gradients.decoder.dtype))
    hidden = error @ decoder.t()
    if mask is not None:
        hidden = hidden.masked_fill(~mask, 0.0)
    gradients.encoder.index_add_(0, columns, (hidden.t() @ encoded.centred).to(gradients.encoder.dtype))
    gradients.bias.index_add_(0, columns, hidden.sum(0).to(gradients.bias.dtype))
    return loss
