"""Schema migrations for Postgres (Alembic): one `Runner` per service that owns tables.

A service provides its metadata and a package `versions` of revisions. `command` is its command line, and `python -m
services.runtime.migrations` migrates several services at once.
"""
