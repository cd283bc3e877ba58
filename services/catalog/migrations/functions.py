"""The functions of a rollout, from before the first record is copied until the old tables go."""

from alembic import context

from services.catalog.migrations import copying, following, mapping, statements


def create() -> None:
    """Makes them, and tells them where the storage's root is."""
    root = str(context.config.attributes["storage_root"]).rstrip("/")
    statements.run_with("INSERT INTO rollout.settings VALUES ($1)", root)
    statements.run(
        *mapping.FUNCTIONS,
        *copying.FUNCTIONS,
        *following.FUNCTIONS,
    )
