"""The catalog's schema, revision by revision (Alembic).

`schema` names it; `versions` has the revisions; the other modules hold the SQL that several revisions share.
docs/migrations.md describes a rollout.
"""

SEARCH_PATH = "rollout, public"
"""The search path of the catalog's connections.

While code of before revision 0004 runs beside newer code, tables whose meaning changes exist twice: the new ones in the
schema `rollout`, which exists only then.
"""
