"""Polytok: one dataset, many tokenizations."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polytok import errors, states
    from polytok.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "errors", "states"]


def __dir__() -> list[str]:
    """Return the public names, also before they are imported."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import the client on first use, so that the command line and the services start without it."""
    if name in {"Client", "AsyncClient"}:
        return getattr(importlib.import_module("polytok.client"), name)
    if name in {"errors", "states"}:
        return importlib.import_module(f"polytok.{name}")
    raise AttributeError(f"module 'polytok' has no attribute {name!r}")
