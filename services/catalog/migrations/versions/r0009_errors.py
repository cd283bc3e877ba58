"""Adds what keeps class, violations and metadata of an error. Old code sees none of it."""

from services.catalog.migrations import errors, statements

revision = "0009"
down_revision = "0008"
phase = "pre"


def upgrade() -> None:
    statements.run_locking(errors.LOCKED, *errors.COLUMNS)


def downgrade() -> None:
    """Leaves the columns: older code does not look at them."""
