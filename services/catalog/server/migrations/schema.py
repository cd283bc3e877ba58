"""The catalog's schema, as the runner of its revisions knows it."""

from services.catalog.server import tables
from services.runtime.migrations.runner import Runner

runner = Runner(
    schema="public", package="services.catalog.server.migrations", metadata=tables.metadata, program="services.catalog"
)
"""Applies the revisions under `versions`."""
