"""The extractor's schema, as the runner of its revisions knows it."""

from services.extractor.server import tables
from services.runtime.migrations.runner import Runner

runner = Runner(
    schema=tables.SCHEMA,
    package="services.extractor.server.migrations",
    metadata=tables.metadata,
    program="services.extractor",
)
"""Applies the revisions under `versions`."""
