"""Adds what keeps class, violations and metadata of an error. Old code sees none of it."""

from services.catalog.server.migrations import error_columns, execution

revision = "0009"
down_revision = "0008"
phase = "pre"


def upgrade() -> None:
    execution.run_locking(error_columns.LOCKED, *error_columns.COLUMNS)


def downgrade() -> None:
    """Leave the columns: older code does not look at them."""
