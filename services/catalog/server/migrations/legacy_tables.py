"""Where the old tables go once the rollout is complete, and how they come back."""

from services.catalog.server.migrations import execution, legacy_schema

_OLD = ("public.datasets", "public.models")
_BOOKS = ("rollout.links", "rollout.model_links")


def archive_legacy_tables() -> None:
    """Move the old tables, with what is known about them, out of the way."""
    execution.run(
        "CREATE SCHEMA retired",
        *(f"ALTER TABLE {relation} SET SCHEMA retired" for relation in (*_OLD, *_BOOKS)),
    )


def discard_empty() -> None:
    """Drop old tables that hold nothing, as on a fresh installation.

    Others stay: they are small, and with them a downgrade gives every old row back to the byte. DROP SCHEMA retired
    CASCADE removes them for good; a downgrade after that makes the old rows from the new records.
    """
    if execution.flag("SELECT NOT EXISTS (SELECT FROM retired.datasets) AND NOT EXISTS (SELECT FROM retired.models)"):
        execution.run("DROP SCHEMA retired CASCADE")


def restore_legacy_tables() -> None:
    """Make the old tables again, with the rows that they had."""
    if not execution.flag("SELECT to_regclass('retired.datasets') IS NOT NULL"):
        execution.run(*legacy_schema.TABLES)
        return
    execution.run(
        *(f"DROP TABLE {relation}" for relation in _BOOKS),
        *(f"ALTER TABLE retired.{relation.split('.')[1]} SET SCHEMA public" for relation in _OLD),
        *(f"ALTER TABLE retired.{relation.split('.')[1]} SET SCHEMA rollout" for relation in _BOOKS),
        "DROP SCHEMA retired CASCADE",
    )
