"""Adds the new tables beside the old ones, and the triggers that carry across what old code writes.

Nothing that old code reads changes. The one strong lock, to create the triggers, is taken last and only when nobody
stands in the way.
"""

from services.catalog.migrations import after, copying, following, functions, returning, statements

revision = "0002"
down_revision = "0001"
phase = "pre"


def upgrade() -> None:
    statements.run("CREATE SCHEMA rollout", *after.TABLES, *copying.TABLES)
    functions.create()
    statements.run_locking(*following.TRIGGERS)
    returning.restore()


def downgrade() -> None:
    statements.run_locking(
        statements.lock_tables("public.datasets", "public.models", *after.RELATIONS),
        *following.DROPPED_TRIGGERS,
    )
    returning.give_back()
    returning.stash()
    statements.run(
        "DROP SCHEMA rollout CASCADE",
        *(f"DROP TABLE {relation}" for relation in reversed(after.RELATIONS) if relation.startswith("public.")),
    )
