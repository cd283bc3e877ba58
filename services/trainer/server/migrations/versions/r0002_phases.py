"""What the worker of a training does, and how far it is with filling its buffer."""

from alembic import op

revision = "0002"
down_revision = "0001"
phase = "pre"


def upgrade() -> None:
    """Add the columns."""
    op.execute(
        "ALTER TABLE trainer.trainings ADD COLUMN phase TEXT DEFAULT '' NOT NULL, "
        "ADD COLUMN phase_progress DOUBLE PRECISION DEFAULT '0' NOT NULL"
    )


def downgrade() -> None:
    """Drop them: they tell of what runs now, and of nothing that was."""
    op.execute("ALTER TABLE trainer.trainings DROP COLUMN phase, DROP COLUMN phase_progress")
