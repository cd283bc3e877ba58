"""The version of an engine: what is known of one version says nothing about another."""

import functools
import importlib.metadata

_PACKAGES = {"spans": "polytok"}
"""Package names of engines whose package is named differently."""


@functools.cache
def format_name_and_version(engine: str) -> str:
    """Return an engine's name with its version, such as `gigatoken 0.10.0`."""
    try:
        return f"{engine} {importlib.metadata.version(_PACKAGES.get(engine, engine))}"
    except importlib.metadata.PackageNotFoundError:
        return engine
