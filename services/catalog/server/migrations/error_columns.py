"""The columns that keep class, violations and metadata of an error; nothing where an older version recorded it."""

from services.catalog.server.migrations import execution

TABLES = ("datasets", "models", "dataset_tokenizations", "tokenization_repairs", "jobs", "job_attempts")

LOCKED = execution.lock_tables(*(f"public.{table}" for table in TABLES if table != "tokenization_repairs"))
"""Locks what live traffic writes; the table of repairs may be new."""

COLUMNS = tuple(
    f"ALTER TABLE public.{table} ADD COLUMN IF NOT EXISTS error jsonb NOT NULL DEFAULT '{{}}'" for table in TABLES
)
"""Adds them where they are missing. With a constant default no row is rewritten."""
