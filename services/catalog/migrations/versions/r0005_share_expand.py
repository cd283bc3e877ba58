"""Adds what sharing and repairing files needs: a column, a table and an index that is not unique.

Old code sees none of it. New code shares nothing before revision 0006.
"""

from alembic import op

from services.catalog.migrations import errors, identity, sharing, statements

revision = "0005"
down_revision = "0004"
phase = "pre"


def upgrade() -> None:
    # Concurrently: whoever tokenizes meanwhile is not made to wait, however many files there are.
    with op.get_context().autocommit_block():
        if statements.flag(sharing.INVALID_INDEX):
            statements.run(sharing.DROPPED_INDEX)
        statements.run(sharing.INDEX)
    # New code runs from here on, so the columns of revisions 0007 and 0009 are needed too.
    statements.run_locking(errors.LOCKED, sharing.COLUMN, *sharing.TABLES, *identity.COLUMNS, *errors.COLUMNS)


def downgrade() -> None:
    """Drops the index alone: the column and the table hold what is known, and older code does not look at them."""
    statements.run_locking(sharing.DROPPED_INDEX)
