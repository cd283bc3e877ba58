"""Alembic's environment: runs the revisions on the connection that `runner` provides."""

from alembic import context

_given = context.config.attributes

context.configure(
    connection=_given["connection"],
    target_metadata=_given["metadata"],
    version_table_schema=_given["schema"],
    # A failing revision rolls back only itself; earlier ones stay applied.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
