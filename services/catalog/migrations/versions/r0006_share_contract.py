"""Lets the key of a file repeat, and with that tokenizations share files. For when no old code runs any more."""

from services.catalog.migrations import sharing, statements

revision = "0006"
down_revision = "0005"
phase = "post"

_LOCKED = statements.lock_tables("public.dataset_tokenizations", "public.tokenization_files")


def upgrade() -> None:
    statements.run_locking(sharing.REPEATING)
    if statements.flag(sharing.IS_PUT_ASIDE):
        statements.run_locking(_LOCKED, *sharing.PUT_BACK)


def downgrade() -> None:
    statements.run_locking(_LOCKED)
    if statements.flag(sharing.IS_SHARED):
        statements.run(*sharing.PUT_ASIDE)
    statements.run(sharing.UNIQUE)
