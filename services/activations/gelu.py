"""GPT-2's GELU on a CPU: the same operations in the same order, in one array or in cache-sized pieces.

transformers' `NewGELUActivation` is eight operations, each of which reads and writes the MLP's whole inner layer in
memory. Here every number goes through the very same operations, so that on one processor the result is equal bit for
bit.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

_PIECE = 1 << 17
"""Numbers per piece: three such arrays stay in a core's cache."""

Forward = Callable[[Tensor], Tensor]


def find_chunked_forwards(model: nn.Module) -> dict[nn.Module, Forward]:
    """Return replacements for a model's activation functions of this kind: module → its forward pass on pieces."""
    return {module: _forward(module.forward) for module in model.modules() if type(module) is NewGELUActivation}


def _forward(plain: Forward) -> Forward:
    def forward(values: Tensor) -> Tensor:
        # Operations that write to given arrays have no gradients.
        if not torch.is_inference_mode_enabled() or not values.is_contiguous() or values.numel() <= _PIECE:
            return plain(values)
        # Threads synchronise after every operation, and wait long where other processes use the cores. With several
        # threads nothing is split; one array still serves all steps.
        return _gelu(values, _PIECE if torch.get_num_threads() == 1 else values.numel())

    return forward


def _gelu(values: Tensor, piece: int) -> Tensor:
    result = torch.empty_like(values)
    inner = values.new_empty(piece)
    for taken, given in zip(torch.split(values.view(-1), piece), torch.split(result.view(-1), piece), strict=True):
        # 0.5 * x * (1.0 + tanh(sqrt(2.0 / pi) * (x + 0.044715 * pow(x, 3.0))))
        part = inner[: len(taken)]
        torch.pow(taken, 3.0, out=part)
        part.mul_(0.044715).add_(taken).mul_(math.sqrt(2.0 / math.pi)).tanh_().add_(1.0)
        torch.mul(taken, 0.5, out=given)
        given.mul_(part)
    return result
