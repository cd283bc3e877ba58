"""The tasks of a tokenization."""
