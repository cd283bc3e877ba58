"""Temporarily replace the forward passes of a model's modules."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

_NAME = "forward"


@contextlib.contextmanager
def override_forwards(others: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Replace the forward passes of modules during the block; hooks on the modules are still called."""
    before: dict[nn.Module, Any] = {module: module.__dict__.get(_NAME) for module in others}
    for module, forward in others.items():
        # An attribute of the instance hides the class's method.
        module.__dict__[_NAME] = forward
    try:
        yield
    finally:
        for module, earlier in before.items():
            if earlier is None:
                del module.__dict__[_NAME]
            else:
                module.__dict__[_NAME] = earlier
