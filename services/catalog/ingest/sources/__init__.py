"""Sources: from a part of one to record batches."""
