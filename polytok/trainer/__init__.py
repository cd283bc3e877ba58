"""Stubs of the trainer's contracts."""
