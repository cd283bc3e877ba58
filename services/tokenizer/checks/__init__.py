"""Checks of a finished tokenization: verification, and encoding a sample again."""
