"""Functions that are compiled on first call: most tokenizations need none of them."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function of numbers and arrays; it releases the GIL while it runs."""
    made: _Function = numba.njit(nogil=True)(function)
    return made


def inlined(function: _Function) -> _Function:
    """Compile a small function for use by compiled ones: a call would cost more than it does."""
    made: _Function = numba.njit(forceinline=True)(function)
    return made
