"""The trainer's schema, as the runner of its revisions knows it."""

from services.runtime.migrations.runner import Runner
from services.trainer.server import tables

runner = Runner(
    schema=tables.SCHEMA,
    package="services.trainer.server.migrations",
    metadata=tables.metadata,
    program="services.trainer",
)
"""Applies the revisions under `versions`."""
