"""The catalog's schema, revision by revision (Alembic).

`schema` names it; `versions` has the revisions; the other modules hold the SQL that several revisions share.
docs/migrations.md tells how a rollout goes.
"""
