"""Stubs of the catalog's contracts."""
