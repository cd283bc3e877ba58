"""Where a step computes, and what that place is good at."""

import torch


def reads_values(tensor: torch.Tensor) -> bool:
    """Return whether looking at a tensor's values costs nothing: on a processor.

    A device would be waited for, and stand idle meanwhile; there, steps keep to shapes that are known beforehand.
    """
    return tensor.device.type == "cpu"
