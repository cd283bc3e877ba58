"""The trainer's schema, revision by revision (Alembic)."""
