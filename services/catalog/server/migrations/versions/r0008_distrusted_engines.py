"""Adds the table of engines that gave other ids than the reference. Old code does not look at it."""

from services.catalog.server.migrations import execution

revision = "0008"
down_revision = "0007"
phase = "pre"

_TABLE = """
    CREATE TABLE IF NOT EXISTS public.distrusted_engines (
        tokenizer_fingerprint text NOT NULL,
        engine text NOT NULL,
        detail text NOT NULL DEFAULT '',
        found_in text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT pk_distrusted_engines PRIMARY KEY (tokenizer_fingerprint, engine)
    )
"""


def upgrade() -> None:
    execution.run(_TABLE)


def downgrade() -> None:
    """Leave the table: what is known of an engine stays true, and older code does not look at it."""
