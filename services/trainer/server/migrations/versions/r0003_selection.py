"""Which tokens are trained on becomes part of a training's lineage."""

from alembic import op

revision = "0003"
down_revision = "0002"
phase = "pre"

COPY = """
    UPDATE trainer.trainings SET lineage = lineage || jsonb_build_object('selection', jsonb_build_object(
        'context_size', COALESCE((source -> 'live' ->> 'context_size')::int, 0),
        'excluded_token_ids', excluded_token_ids))
    WHERE NOT lineage ? 'selection'
"""
"""Of an extraction's excluded positions nothing is on record: trainings of before left them out of their evaluation."""


def upgrade() -> None:
    """Copy the ids that are left out."""
    op.execute(COPY)


def downgrade() -> None:
    """Leave what older code does not read."""
