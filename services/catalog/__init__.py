"""Owns datasets, models and tokenizations, and reads datasets in."""
