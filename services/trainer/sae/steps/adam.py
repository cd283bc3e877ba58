"""Adam in one pass over the memory: fused kernels that include gradient clipping."""

from collections.abc import Mapping
from typing import Any

import torch

from polytok import errors
from services.trainer.sae import configs

_SUGGESTION = "Resume with the plan that wrote it, or start a new training."


class Adam:
    """Adam over named contiguous tensors, changed in place. Equal to `torch.optim.Adam` after clipping.

    Of tensors in bfloat16 it keeps a copy in float32, and steps on that: with the 8 bits of bfloat16, steps of less
    than half a 256th of a weight would be rounded away, and with a usual learning rate most are.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], config: configs.OptimizerConfig) -> None:
        self._rounded = {name: tensor for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16}
        self._parameters = {
            name: torch.nn.Parameter(tensor.float() if name in self._rounded else tensor)
            for name, tensor in tensors.items()
        }
        self._clip = config.gradient_clip
        # Kernels take the scale of gradients as float32, too coarse for weights of float64.
        self._fused_scale = all(tensor.dtype != torch.float64 for tensor in tensors.values())
        self._optimizer: Any = torch.optim.Adam(
            list(self._parameters.values()), lr=config.lr, betas=(config.adam_beta1, config.adam_beta2), fused=True
        )
        for parameter in self._parameters.values():
            self._optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def step(self, gradients: Mapping[str, torch.Tensor], lr: float) -> torch.Tensor:
        """Clip the gradients, possibly in place, and take a step. Return their norm before clipping, shape ()."""
        gradients = {name: gradients[name].to(parameter.dtype) for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.grad = gradients[name]
        norm = torch.nn.utils.get_total_norm(list(gradients.values()))
        if self._clip is not None:
            # As in torch.nn.utils.clip_grad_norm_.
            divisor = ((norm + 1e-6) / self._clip).clamp(min=1.0)
            if self._fused_scale:
                self._optimizer.grad_scale = divisor.float()
            else:
                torch._foreach_div_(list(gradients.values()), divisor)
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()
        for parameter in self._parameters.values():
            parameter.grad = None
        for name, tensor in self._rounded.items():
            tensor.copy_(self._parameters[name])
        return norm

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the moments, step counts and float32 copies by name, sharing memory."""
        return {f"float32.{name}": self._parameters[name].data for name in self._rounded} | {
            f"{kind}.{name}": value
            for name, parameter in self._parameters.items()
            for kind, value in self._optimizer.state[parameter].items()
        }


def copy_into(target: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors over those of the same names and shapes; raises `errors.FailedPrecondition` if these differ."""
    if missing := sorted(set(target) ^ set(source)):
        raise errors.FailedPrecondition(
            f"The checkpoint does not fit the configuration: {missing[0]} is in only one of them. {_SUGGESTION}"
        )
    for name, tensor in target.items():
        found = source[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise errors.FailedPrecondition(
                f"The checkpoint does not fit the configuration: {name} is {tuple(found.shape)} {found.dtype} "
                f"in the checkpoint and {tuple(tensor.shape)} {tensor.dtype} in the training. {_SUGGESTION}"
            )
        tensor.copy_(found)
