"""The functions of a rollout, from before the first record is copied until the old tables go."""

from alembic import context

from services.catalog.server.migrations import copy_functions, execution, mapping_functions, sync_triggers


def create() -> None:
    """Make them, and return them where the storage's root is."""
    root = str(context.config.attributes["storage_root"]).rstrip("/")
    execution.run_with("INSERT INTO rollout.settings VALUES ($1)", root)
    execution.run(
        *mapping_functions.FUNCTIONS,
        *copy_functions.FUNCTIONS,
        *sync_triggers.FUNCTIONS,
    )
