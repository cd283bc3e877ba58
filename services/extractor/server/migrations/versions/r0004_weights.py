"""Adds the fingerprint of the weights that an extraction is made with."""

from alembic import op

revision = "0004"
down_revision = "0003"
phase = "pre"


def upgrade() -> None:
    """Add the column; extractions of earlier versions have none."""
    op.execute("ALTER TABLE extractor.extractions ADD COLUMN weights_fingerprint TEXT DEFAULT '' NOT NULL")


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE extractor.extractions DROP COLUMN weights_fingerprint")
