"""Benchmarks: every claim of speed, measured against the usual alternative."""
