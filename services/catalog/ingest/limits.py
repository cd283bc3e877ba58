"""How much is held in memory at a time. Together these keep a reader far below 1 GiB, whatever it reads."""

ROW_BYTES = 32 << 20
"""The longest line that is read."""
CSV_ROW_BYTES = 8 << 20
"""The longest row of CSV. Arrow reads CSV in blocks that hold a row each, and up to 32 of them ahead."""
BLOCK_BYTES = 4 << 20
"""Lines are parsed in blocks of about this size."""
BATCH_ROWS = 10_000
"""Rows of a record batch, at most."""
BATCH_BYTES = 16 << 20
"""Bytes of a record batch, about; a single row may be larger."""
PARTS = 10_000
"""Files or hub shards of one source, each of which becomes a task."""
DOCUMENTS = 100_000
"""Files of one source that are a row each."""
PART_FILES = 1000
"""Files of a row each that are read as one part, at most."""
PART_BYTES = 64 << 20
"""Bytes of such files, as they are stored, that are read as one part, about."""
