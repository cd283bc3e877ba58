"""The active (vector, latent) pairs of a batch, and products that use only these."""

import functools
from collections.abc import Callable

import torch
from torch.nn import functional

Back = Callable[[torch.Tensor], torch.Tensor]
"""Maps the gradient of a reconstruction to that of its activations."""


class SparseActivations:
    """Pairs of a row of the batch and a latent, ordered by row.

    Latents may lie in levels, given by their ends; a row's latents must then ascend. Products sum in a fixed order: by
    rows and levels, or by latents and then by rows.
    """

    def __init__(
        self, rows: torch.Tensor, latents: torch.Tensor, batch: int, d_sae: int, ends: torch.Tensor | None = None
    ) -> None:
        self.rows = rows
        self.latents = latents
        self._batch, self._d_sae = batch, d_sae
        levels = 1 if ends is None else len(ends)
        self._slots = rows if ends is None else rows * levels + torch.bucketize(latents, ends, right=True)
        self._slot_offsets = _offsets(self._slots, batch * levels)

    @functools.cached_property
    def _by_latent(self) -> tuple[torch.Tensor, torch.Tensor]:
        latents, order = torch.sort(self.latents, stable=True)
        return order, _offsets(latents, self._d_sae)

    def decoded(self, values: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, Back]:
        """Sum `values[p] * weights[latent of p]` for every row and level.

        Weights have shape (d_sae, d), the result (batch * levels, d), levels together. Also returns the function that
        maps the result's gradient to that of the values.
        """
        with torch.enable_grad():
            leaf = values.detach().requires_grad_()
            parts = _bags(self.latents, weights, self._slot_offsets, leaf)
        return parts.detach(), lambda gradient: torch.autograd.grad(parts, leaf, gradient)[0]

    def per_latent(self, values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Sum `values[p] * table[row of p]` for every latent; the result has shape (d_sae, d).

        A table has one row for each of the batch, or for each row and level as returned by `decoded`.
        """
        order, offsets = self._by_latent
        by_level = len(table) == len(self._slot_offsets) - 1
        return _bags((self._slots if by_level else self.rows)[order], table, offsets, values[order])

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum the values of every latent; shape (d_sae,)."""
        return values.new_zeros(self._d_sae).index_add_(0, self.latents, values)

    def per_row(self, values: torch.Tensor) -> torch.Tensor:
        """Sum the values of every row; shape (batch,)."""
        return values.new_zeros(self._batch).index_add_(0, self.rows, values)

    def of_latent(self, values: torch.Tensor) -> torch.Tensor:
        """Return the value of each pair's latent, (d_sae,) to (pairs,)."""
        return values[self.latents]

    def of_row(self, values: torch.Tensor) -> torch.Tensor:
        """Return the value of each pair's row, (batch,) to (pairs,)."""
        return values[self.rows]


def _bags(indices: torch.Tensor, table: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return functional.embedding_bag(
        indices, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _offsets(ascending: torch.Tensor, count: int) -> torch.Tensor:
    """Return where each of the numbers 0, 1 … count begins in an ascending tensor; shape (count + 1,)."""
    return torch.searchsorted(ascending, torch.arange(count + 1, device=ascending.device, dtype=ascending.dtype))
