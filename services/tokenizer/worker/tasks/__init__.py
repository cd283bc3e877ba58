"""The tasks that a tokenization is made by."""
