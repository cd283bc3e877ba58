"""Adds what keeps class, violations and metadata of an error."""

from alembic import op

revision = "0005"
down_revision = "0004"
phase = "pre"

_TABLES = ("trainings", "jobs", "job_attempts")


def upgrade() -> None:
    """Add the columns."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE trainer.{table} ADD COLUMN error JSONB DEFAULT '{{}}' NOT NULL")


def downgrade() -> None:
    """Drop them: reason and message stay."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE trainer.{table} DROP COLUMN error")
