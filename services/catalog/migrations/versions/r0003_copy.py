"""Takes every old record over, in batches that each commit: what is done stays done when it is interrupted."""

from alembic import op

from services.catalog.migrations import batches, statements

revision = "0003"
down_revision = "0002"
phase = "pre"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        statements.run("SELECT rollout.copy_models()")
        batches.copy()


def downgrade() -> None:
    """Nothing: what was copied goes with its tables, in revision 0002."""
