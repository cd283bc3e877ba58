"""Adds what sharing and repairing files needs: a column, a table and an index that is not unique.

Old code sees none of it. New code shares nothing before revision 0006.
"""

from alembic import op

from services.catalog.server.migrations import error_columns, execution, identity_columns, shared_files

revision = "0005"
down_revision = "0004"
phase = "pre"


def upgrade() -> None:
    # Concurrently: tokenizations that run meanwhile do not wait, however many files there are.
    with op.get_context().autocommit_block():
        if execution.flag(shared_files.INVALID_INDEX):
            execution.run(shared_files.DROPPED_INDEX)
        execution.run(shared_files.INDEX)
    # New code runs from here on, so the columns of revisions 0007 and 0009 are needed too.
    execution.run_locking(
        error_columns.LOCKED,
        shared_files.COLUMN,
        *shared_files.TABLES,
        *identity_columns.COLUMNS,
        *error_columns.COLUMNS,
    )


def downgrade() -> None:
    """Drop the index alone: the column and the table hold what is known, and older code does not look at them."""
    execution.run_locking(shared_files.DROPPED_INDEX)
