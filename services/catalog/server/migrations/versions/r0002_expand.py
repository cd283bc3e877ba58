"""Adds the new tables beside the old ones, and the triggers that carry across what old code writes.

Nothing that old code reads changes. The one strong lock, to create the triggers, is taken last and only when nobody
stands in the way.
"""

from services.catalog.server.migrations import (
    copy_functions,
    downgrade_sql,
    execution,
    new_schema,
    rollout_functions,
    sync_triggers,
)

revision = "0002"
down_revision = "0001"
phase = "pre"


def upgrade() -> None:
    execution.run("CREATE SCHEMA rollout", *new_schema.TABLES, *copy_functions.TABLES)
    rollout_functions.create()
    execution.run_locking(*sync_triggers.TRIGGERS)
    downgrade_sql.restore()


def downgrade() -> None:
    execution.run_locking(
        execution.lock_tables("public.datasets", "public.models", *new_schema.RELATIONS),
        *sync_triggers.DROPPED_TRIGGERS,
    )
    downgrade_sql.write_legacy_rows()
    downgrade_sql.stash()
    execution.run(
        "DROP SCHEMA rollout CASCADE",
        *(f"DROP TABLE {relation}" for relation in reversed(new_schema.RELATIONS) if relation.startswith("public.")),
    )
