"""Columns without a type: those whose values do not fit the type of earlier ones."""


class StartAgain(Exception):
    """Raised when a value does not fit the type inferred from earlier ones: read again from the start."""
