"""The schema as it was: one tokenization a dataset, kept in the columns of `datasets`."""

from polytok import errors
from services.catalog.server.migrations import execution, legacy_schema

revision = "0001"
down_revision = None
phase = "pre"


def upgrade() -> None:
    """Make the tables, unless the version before, which knew no revisions, made them."""
    if not execution.flag("SELECT to_regclass('public.datasets') IS NOT NULL"):
        execution.run(*legacy_schema.TABLES)
        return
    missing = legacy_schema.missing()
    if missing:
        raise errors.FailedPrecondition(
            f"The database has a table 'datasets' that is not of the version before: these columns are missing, or "
            f"of another type: {missing}. Use a database of its own, or give the table these columns."
        )


def downgrade() -> None:
    rows = execution.value("SELECT (SELECT count(*) FROM public.datasets) + (SELECT count(*) FROM public.models)")
    kept = execution.flag("SELECT to_regclass('retired.stash') IS NOT NULL")
    if rows or kept:
        what = f"datasets and models hold {rows} rows" if rows else "the schema 'retired' keeps rows of the new schema"
        raise errors.FailedPrecondition(
            f"Going below revision 0001 would drop every table, and {what}. Delete the rows (DROP SCHEMA retired "
            f"CASCADE for the kept ones), or drop the database."
        )
    execution.run("DROP TABLE public.datasets", "DROP TABLE public.models")
