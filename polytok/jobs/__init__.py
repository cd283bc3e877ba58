"""Stubs of the lease and message contracts."""
