"""A pytest plugin that makes this processor another one: `pytest -p tests.support.rounding`.

Its matrix products round otherwise: within the last bits of the sum of absolute products, by the shapes and the memory
layout of what is multiplied, and the same way each time, as the kernels of another processor do. Processes that tests
start have the plain ones.
"""

import hashlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

_library = torch.library.Library("aten", "IMPL")


def _rounded(result: Tensor, multiply: Callable[..., Tensor], operands: tuple[Tensor, ...]) -> Tensor:
    if not result.is_floating_point():
        return result
    layout = repr([(multiply.__name__, tuple(each.shape), each.stride()) for each in operands])
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(layout.encode()).digest()[:7]))
    size = multiply(*(each.abs() for each in operands), out=torch.empty_like(result))
    noise = torch.empty(result.shape).uniform_(-1, 1, generator=generator)
    return result.add_((noise * torch.finfo(result.dtype).eps).to(result.dtype) * size)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    result = torch.mm(a, b, out=a.new_empty(a.shape[0], b.shape[1]))
    return _rounded(result, torch.mm, (a, b))


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    result = torch.bmm(a, b, out=a.new_empty(a.shape[0], a.shape[1], b.shape[2]))
    return _rounded(result, torch.bmm, (a, b))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    result = torch.addmm(bias, a, b, beta=beta, alpha=alpha, out=a.new_empty(a.shape[0], b.shape[1]))
    return _rounded(result, torch.addmm, (bias, a, b))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that kernels are replaced is the purpose
    for _name, _kernel in (("mm", _mm), ("bmm", _bmm), ("addmm", _addmm)):
        _library.impl(_name, _kernel, "CPU", allow_override=True)
