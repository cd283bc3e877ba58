"""The tasks of an extraction."""
