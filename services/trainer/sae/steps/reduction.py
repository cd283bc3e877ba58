"""Communication of several processes within a step, over torch.distributed.

Every process sees its own part of the batch. Gradients are averaged, so that a step equals that of one process on the
joint batch wherever the loss is a mean over vectors. The selection of batchtopk and matryoshka_batchtopk is made among
the vectors of one process: k on average in every part rather than in the whole; their threshold is the mean over the
parts.
"""

from collections.abc import Iterable

import torch
import torch.distributed

_distributed = torch.distributed


class Reduction:
    """Reduces over the processes of a group; does nothing for a single process, or for what is not shared."""

    def __init__(self, *, shared: bool = True) -> None:
        active = shared and _distributed.is_available() and _distributed.is_initialized()
        self.size = _distributed.get_world_size() if active else 1

    def mean(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace tensors by their means over the processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                _distributed.all_reduce(tensor)
                tensor.div_(self.size)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace a tensor by its sum over the processes, in place."""
        if self.size > 1:
            _distributed.all_reduce(tensor)
        return tensor
