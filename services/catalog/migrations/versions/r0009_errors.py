"""Adds what keeps class, violations and metadata of an error. Old code sees none of it."""

from services.catalog.migrations import statements

revision = "0009"
down_revision = "0008"
phase = "pre"

_TABLES = ("datasets", "models", "dataset_tokenizations", "tokenization_repairs", "jobs", "job_attempts")


def upgrade() -> None:
    """Adds the columns. With a constant default no row is rewritten."""
    statements.run_locking(
        *(
            f"ALTER TABLE public.{table} ADD COLUMN IF NOT EXISTS error JSONB DEFAULT '{{}}' NOT NULL"
            for table in _TABLES
        )
    )


def downgrade() -> None:
    """Leaves the columns: older code does not look at them."""
