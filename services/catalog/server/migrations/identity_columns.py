"""The columns that say which commit and which chat template a record depends on.

Empty where a record was made before there were such columns: then nothing is on record that could be compared.
"""

from services.catalog.server.migrations import execution

_TABLES = {
    "datasets": ("commit",),
    "models": ("commit", "tokenizer_commit", "chat_template_fingerprint"),
    "dataset_tokenizations": ("chat_template_fingerprint",),
}

LOCKED = execution.lock_tables(*(f"public.{table}" for table in _TABLES))

COLUMNS = tuple(
    f"ALTER TABLE public.{table} ADD COLUMN IF NOT EXISTS {column} text NOT NULL DEFAULT ''"
    for table, columns in _TABLES.items()
    for column in columns
)
"""Adds them where they are missing. With a constant default no row is rewritten."""
