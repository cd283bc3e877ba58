"""Adds what says on which commit and which chat template a record depends. Old code sees none of it."""

from services.catalog.migrations import identity, statements

revision = "0007"
down_revision = "0006"
phase = "pre"


def upgrade() -> None:
    statements.run_locking(identity.LOCKED, *identity.COLUMNS)


def downgrade() -> None:
    """Changes nothing: the columns hold what is known, and older code does not look at them."""
