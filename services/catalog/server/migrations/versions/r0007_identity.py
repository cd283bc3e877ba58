"""Adds what says on which commit and which chat template a record depends. Old code sees none of it."""

from services.catalog.server.migrations import execution, identity_columns

revision = "0007"
down_revision = "0006"
phase = "pre"


def upgrade() -> None:
    execution.run_locking(identity_columns.LOCKED, *identity_columns.COLUMNS)


def downgrade() -> None:
    """Change nothing: the columns hold what is known, and older code does not look at them."""
