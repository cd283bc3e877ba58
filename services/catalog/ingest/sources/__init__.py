"""Sources: readers that turn parts into record batches."""
