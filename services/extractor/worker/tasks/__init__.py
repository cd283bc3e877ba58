"""The tasks that an extraction is made by."""
