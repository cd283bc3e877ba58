"""Memory limits. Together they keep a reader far below 1 GiB, whatever it reads."""

ROW_BYTES = 32 << 20
"""The longest line."""
CSV_ROW_BYTES = 8 << 20
"""The longest row of CSV. Arrow reads CSV in blocks of at least a row, and up to 32 of them ahead."""
BLOCK_BYTES = 4 << 20
"""Approximate size of the blocks in which lines are parsed."""
BATCH_ROWS = 10_000
"""Maximum number of rows in a record batch."""
BATCH_BYTES = 16 << 20
"""Approximate size of a record batch; a single row may be larger."""
PARTS = 10_000
"""Maximum number of files or hub shards of one source, each of which becomes a task."""
DOCUMENTS = 100_000
"""Maximum number of files that are one row each."""
PART_FILES = 1000
"""Maximum number of one-row files read as one part."""
PART_BYTES = 64 << 20
"""Approximate stored size of one-row files read as one part."""
