"""The active (vector, latent) pairs of a batch, and products with them that touch nothing else."""

import functools

import torch
from torch.nn import functional


class Pairs:
    """Pairs of a row of the batch and a latent, ordered by row.

    Both products add in a fixed order: by rows, or by latents and then by rows.
    """

    def __init__(self, rows: torch.Tensor, latents: torch.Tensor, batch: int, d_sae: int) -> None:
        self.rows = rows
        self.latents = latents
        self._d_sae = d_sae
        self._row_offsets = _offsets(rows, batch)

    @functools.cached_property
    def _by_latent(self) -> tuple[torch.Tensor, torch.Tensor]:
        latents, order = torch.sort(self.latents, stable=True)
        return order, _offsets(latents, self._d_sae)

    def decode(self, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Adds up `values[p] * weights[latent of p]` for every row; weights (d_sae, d), result (batch, d)."""
        return _bags(self.latents, weights, self._row_offsets, values)

    def per_latent(
        self, values: torch.Tensor, rows: torch.Tensor, first: int = 0, last: int | None = None
    ) -> torch.Tensor:
        """Adds up `values[p] * rows[row of p]` for every latent from `first` up to `last`.

        `rows` has shape (batch, d), the result (last - first, d).
        """
        order, offsets = self._by_latent
        last = self._d_sae if last is None else last
        if (first, last) != (0, self._d_sae):
            start, end = int(offsets[first]), int(offsets[last])
            order, offsets = order[start:end], offsets[first : last + 1] - start
        return _bags(self.rows[order], rows, offsets, values[order])

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Adds up the values of every latent; shape (d_sae,)."""
        return values.new_zeros(self._d_sae).index_add_(0, self.latents, values)


def _bags(indices: torch.Tensor, table: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return functional.embedding_bag(
        indices, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _offsets(ascending: torch.Tensor, count: int) -> torch.Tensor:
    """Where each of the numbers 0, 1 … count begins among ascending ones; shape (count + 1,)."""
    return torch.searchsorted(ascending, torch.arange(count + 1, device=ascending.device, dtype=ascending.dtype))
