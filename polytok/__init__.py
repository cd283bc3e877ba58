"""Polytok: one dataset, many tokenizations."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polytok import errors
    from polytok.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "errors"]


def __getattr__(name: str) -> Any:
    """Import the client on first use, so that the command line and the services start without it."""
    if name in {"Client", "AsyncClient"}:
        return getattr(importlib.import_module("polytok.client"), name)
    if name == "errors":
        return importlib.import_module("polytok.errors")
    raise AttributeError(f"module 'polytok' has no attribute {name!r}")
