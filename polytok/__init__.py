"""Polytok: one dataset, many tokenizations."""
