"""Schemas in Postgres, revision by revision (Alembic): one `Runner` for each service that owns tables.

A service gives its metadata and a package `versions` of revisions; `command` is its command line, and
`python -m services.runtime.migrations` brings several up to date at once.
"""
