"""The column of left out ids goes: a training's lineage has them."""

from alembic import op

from services.trainer.server.migrations.versions import r0003_selection

revision = "0004"
down_revision = "0003"
phase = "post"


def upgrade() -> None:
    """Copy what older code wrote since, and drop the column."""
    op.execute(r0003_selection.COPY)
    op.execute("ALTER TABLE trainer.trainings DROP COLUMN excluded_token_ids")


def downgrade() -> None:
    """Bring the column back, filled."""
    op.execute("ALTER TABLE trainer.trainings ADD COLUMN excluded_token_ids JSONB DEFAULT '[]'::jsonb NOT NULL")
    op.execute(
        "UPDATE trainer.trainings SET excluded_token_ids = lineage -> 'selection' -> 'excluded_token_ids' "
        "WHERE lineage -> 'selection' ? 'excluded_token_ids'"
    )
