"""Ends the rollout: takes over what is left, moves the new tables into place and puts the old ones away.

For when no old code runs any more. New code notices nothing but a wait of milliseconds.
"""

from alembic import op

from services.catalog.migrations import (
    after,
    archive,
    batches,
    copying,
    errors,
    following,
    functions,
    identity,
    returning,
    sharing,
    statements,
)

revision = "0004"
down_revision = "0003"
phase = "post"

_MOVED = ("models", "datasets")

# Work that nobody will finish: it has no job of ours, and whoever did it is gone.
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
        statements.run("SELECT rollout.copy_models()")
        batches.copy()
    statements.run_locking(statements.lock_tables(*after.RELATIONS, "public.datasets", "public.models"))
    batches.copy()
    batches.settle()
    statements.run(*following.DROPPED_TRIGGERS, *_ABANDONED)
    archive.put_away()
    statements.run(
        *(f"ALTER TABLE rollout.{name} SET SCHEMA public" for name in _MOVED),
        "DROP SCHEMA rollout CASCADE",
    )
    archive.discard_empty()


def downgrade() -> None:
    statements.run_locking(statements.lock_tables("public.datasets", "public.models"))
    statements.run(
        # Where this version's revisions were never all applied.
        sharing.COLUMN,
        *sharing.TABLES,
        *identity.COLUMNS,
        *errors.COLUMNS,
        "CREATE SCHEMA rollout",
        *(f"ALTER TABLE public.{name} SET SCHEMA rollout" for name in _MOVED),
        *copying.TABLES,
    )
    archive.bring_back()
    functions.create()
    returning.give_back()
    statements.run(*following.TRIGGERS)
