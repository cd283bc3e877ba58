"""Which version of an engine ran: what is known of one version says nothing about another."""

import functools
import importlib.metadata

_PACKAGES = {"spans": "polytok"}
"""The package of an engine that has another name than the engine."""


@functools.cache
def format_name_and_version(engine: str) -> str:
    """Return an engine's name with its version, such as `gigatoken 0.10.0`."""
    try:
        return f"{engine} {importlib.metadata.version(_PACKAGES.get(engine, engine))}"
    except importlib.metadata.PackageNotFoundError:
        return engine
