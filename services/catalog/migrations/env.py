"""Alembic's environment: runs the revisions on the connection that `runner` gives."""

import sqlalchemy as sa
from alembic import context

from services.catalog import tables

_connection: sa.Connection = context.config.attributes["connection"]

context.configure(
    connection=_connection,
    target_metadata=tables.metadata,
    version_table_schema="public",
    # A revision that fails takes only itself back; those before it stay.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
