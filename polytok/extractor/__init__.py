"""Stubs of the extractor's contracts."""
