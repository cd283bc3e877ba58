"""The catalog's schema, revision by revision (Alembic), and the commands that apply it.

`runner` has the commands; `versions` the revisions; the other modules hold the SQL that several revisions share.
docs/migrations.md tells how a rollout goes.
"""
