"""The extractor's schema, revision by revision (Alembic)."""
