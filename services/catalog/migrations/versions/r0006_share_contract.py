"""Lets the key of a file repeat, and with that tokenizations share files. For when no old code runs any more."""

from services.catalog.migrations import sharing, statements

revision = "0006"
down_revision = "0005"
phase = "post"


def upgrade() -> None:
    statements.run_locking(sharing.REPEATING)
    if statements.flag(sharing.IS_PUT_ASIDE):
        statements.run_locking(*sharing.PUT_BACK)


def downgrade() -> None:
    statements.run_locking(
        "LOCK TABLE public.dataset_tokenizations, public.tokenization_files IN ACCESS EXCLUSIVE MODE"
    )
    if statements.flag(sharing.IS_SHARED):
        statements.run(*sharing.PUT_ASIDE)
    statements.run(sharing.UNIQUE)
