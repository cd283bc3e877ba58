"""The columns that say which commit and which chat template a record depends on.

Empty where a record was made before there were such columns: then nothing is on record that could be compared.
"""

COLUMNS = tuple(
    f"ALTER TABLE public.{table} ADD COLUMN IF NOT EXISTS {column} text NOT NULL DEFAULT ''"
    for table, columns in {
        "datasets": ("commit",),
        "models": ("commit", "tokenizer_commit", "chat_template_fingerprint"),
        "dataset_tokenizations": ("chat_template_fingerprint",),
    }.items()
    for column in columns
)
"""Adds them where they are missing. With a constant default no row is rewritten."""
