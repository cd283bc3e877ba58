"""Takes every old record over, in batches that each commit: what is done stays done when it is interrupted."""

from alembic import op

from services.catalog.server.migrations import batch_copy, execution

revision = "0003"
down_revision = "0002"
phase = "pre"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        execution.run("SELECT rollout.copy_models()")
        batch_copy.copy()


def downgrade() -> None:
    """Nothing: what was copied goes with its tables, in revision 0002."""
