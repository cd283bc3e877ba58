"""Ends the rollout: takes over what is left, moves the new tables into place and puts the old ones away.

For when no old code runs any more. New code notices nothing but a wait of milliseconds.
"""

from alembic import op

from services.catalog.server.migrations import (
    batch_copy,
    copy_functions,
    downgrade_sql,
    error_columns,
    execution,
    identity_columns,
    legacy_tables,
    new_schema,
    rollout_functions,
    shared_files,
    sync_triggers,
)

revision = "0004"
down_revision = "0003"
phase = "post"

_MOVED = ("models", "datasets")

# Work that nobody will finish: it has no job here, and the process that ran it is gone.
_ABANDONED = tuple(
    f"""
    UPDATE {relation} SET status = 'ERROR', error_reason = 'WORKER_LOST', updated_at = clock_timestamp(),
        completed_at = clock_timestamp(),
        error_message = 'The version before was still at work on this when it was replaced. Retry it.'
    WHERE status IN ('PENDING', 'DOWNLOADING', 'QUEUED', 'PROCESSING') AND job_id IS NULL
    """
    for relation in ("rollout.datasets", "public.dataset_tokenizations")
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        execution.run("SELECT rollout.copy_models()")
        batch_copy.copy()
    execution.run_locking(execution.lock_tables(*new_schema.RELATIONS, "public.datasets", "public.models"))
    batch_copy.copy()
    batch_copy.check_complete()
    execution.run(*sync_triggers.DROPPED_TRIGGERS, *_ABANDONED)
    legacy_tables.archive_legacy_tables()
    execution.run(
        *(f"ALTER TABLE rollout.{name} SET SCHEMA public" for name in _MOVED),
        "DROP SCHEMA rollout CASCADE",
    )
    legacy_tables.discard_empty()


def downgrade() -> None:
    execution.run_locking(execution.lock_tables("public.datasets", "public.models"))
    execution.run(
        # Where this version's revisions were never all applied.
        shared_files.COLUMN,
        *shared_files.TABLES,
        *identity_columns.COLUMNS,
        *error_columns.COLUMNS,
        "CREATE SCHEMA rollout",
        *(f"ALTER TABLE public.{name} SET SCHEMA rollout" for name in _MOVED),
        *copy_functions.TABLES,
    )
    legacy_tables.restore_legacy_tables()
    rollout_functions.create()
    downgrade_sql.write_legacy_rows()
    execution.run(*sync_triggers.TRIGGERS)
