"""Lets the key of a file repeat, and with that tokenizations share files. For when no old code runs any more."""

from services.catalog.server.migrations import execution, shared_files

revision = "0006"
down_revision = "0005"
phase = "post"

_LOCKED = execution.lock_tables("public.dataset_tokenizations", "public.tokenization_files")


def upgrade() -> None:
    execution.run_locking(shared_files.REPEATING)
    if execution.flag(shared_files.IS_PUT_ASIDE):
        execution.run_locking(_LOCKED, *shared_files.PUT_BACK)


def downgrade() -> None:
    execution.run_locking(_LOCKED)
    if execution.flag(shared_files.IS_SHARED):
        execution.run(*shared_files.PUT_ASIDE)
    execution.run(shared_files.UNIQUE)
