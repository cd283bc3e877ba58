"""Apply a service's revisions.

One process at a time migrates a database and the others wait, so replicas may start together.
"""

import asyncio
import contextlib
import importlib.resources
import itertools
from collections.abc import AsyncGenerator, Callable
from typing import Literal

import sqlalchemy as sa
from alembic import command, config, script
from alembic.runtime import migration
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.runtime import database
from services.runtime.migrations import comparison
from services.runtime.settings import DatabaseSettings

Phase = Literal["pre", "post", "all"]

_PUBLIC = "public"
# An arbitrary but fixed number that no other program uses.
_LOCK_KEY = 7_310_871_224_019_115_077
_LOCK_PATIENCE_SECONDS = 1800.0


class Runner:
    """The schema of one service. Its methods block: a coroutine calls them through `asyncio.to_thread`.

    `schema` is the Postgres schema with its tables and Alembic's own; `package` has a subpackage `versions` with the
    revisions; `program` is what a user runs, such as `services.catalog`.
    """

    def __init__(self, *, schema: str, package: str, metadata: sa.MetaData, program: str) -> None:
        self.schema = schema
        self.program = program
        self._package = package
        self._metadata = metadata

    def upgrade(self, settings: DatabaseSettings, phase: Phase = "all", *, storage_root: str = "") -> None:
        """Apply missing revisions: "pre" before a rollout, "post" after it, or "all" if no old code runs.

        With `storage_root`, paths in old records below it become storage keys.
        """

        def work(connection: sa.Connection) -> None:
            if self.schema != _PUBLIC:
                connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {self.schema}"))
                connection.commit()
            configuration = self._configuration(connection, storage_root)
            target = self._target(script.ScriptDirectory.from_config(configuration), connection, phase)
            if target is not None:
                command.upgrade(configuration, target)

        self._run(settings, work)

    def downgrade(self, settings: DatabaseSettings, revision: str, *, storage_root: str = "") -> None:
        """Return to a revision: an id, "-1" for one step back, or "base"."""
        self._run(
            settings, lambda connection: command.downgrade(self._configuration(connection, storage_root), revision)
        )

    def current(self, settings: DatabaseSettings) -> str | None:
        """Return the revision of the database; None before the first one."""
        found: list[str | None] = []
        self._run(settings, lambda connection: found.append(self._revision(connection)), alone=False)
        return found[0]

    def check(self, settings: DatabaseSettings) -> None:
        """Raise FailedPrecondition unless the database is at the last revision and has exactly these tables."""
        self._run(settings, self._check, alone=False)

    def _run(self, settings: DatabaseSettings, work: Callable[[sa.Connection], None], *, alone: bool = True) -> None:
        asyncio.run(_run_async(settings, self.schema, work, alone=alone))

    def _check(self, connection: sa.Connection) -> None:
        head = script.ScriptDirectory.from_config(self._configuration(connection, "")).get_current_head()
        revision = self._revision(connection)
        if revision != head:
            raise errors.FailedPrecondition(
                f"The database is at revision {revision or 'none'}, but {head} is required. "
                f"Run `python -m {self.program} migrate up`.",
            )
        differences = comparison.differences(connection, self._metadata, self.schema)
        if differences:
            service = self.program.rpartition(".")[2]
            raise errors.FailedPrecondition(
                f"The database's tables differ from those of the {service}: {'; '.join(differences[:20])}. Add "
                f"a revision to {self._package.replace('.', '/')}/versions, or undo manual changes.",
            )

    def _configuration(self, connection: sa.Connection, storage_root: str) -> config.Config:
        configuration = config.Config()
        for option, folder in (
            ("script_location", importlib.resources.files(__package__)),
            ("version_locations", importlib.resources.files(f"{self._package}.versions")),
        ):
            configuration.set_main_option(option, str(folder).replace("%", "%%"))
        configuration.set_main_option("path_separator", "newline")
        configuration.attributes["connection"] = connection
        configuration.attributes["metadata"] = self._metadata
        configuration.attributes["schema"] = self.schema
        configuration.attributes["storage_root"] = storage_root
        return configuration

    def _revision(self, connection: sa.Connection) -> str | None:
        context = migration.MigrationContext.configure(connection, opts={"version_table_schema": self.schema})
        revision = context.get_current_revision()
        connection.rollback()  # Alembic would mistake an open transaction for its caller's
        return revision

    def _target(self, scripts: script.ScriptDirectory, connection: sa.Connection, phase: Phase) -> str | None:
        """Return the revision to upgrade to: the last missing one that may run in this phase."""
        revision = self._revision(connection)
        missing = [step for step in reversed(list(scripts.walk_revisions())) if _is_after(step.revision, revision)]
        if phase == "post" and missing and missing[0].module.phase != phase:
            raise errors.FailedPrecondition(
                f"The database is at revision {revision or 'none'}. Run the phase 'pre' and roll out before 'post'."
            )
        # Once no older code runs, preparing a later rollout does no harm either.
        steps = itertools.takewhile(lambda step: step.module.phase == "pre", missing) if phase == "pre" else missing
        return max((step.revision for step in steps), default=None)


def _is_after(revision: str, other: str | None) -> bool:
    return other is None or revision > other


async def _run_async(
    settings: DatabaseSettings, schema: str, work: Callable[[sa.Connection], None], *, alone: bool
) -> None:
    opened = database.open_database(settings.model_copy(update={"pool_size": 2}))
    try:
        async with _alone(opened) if alone else contextlib.nullcontext(), _connected(opened) as connection:
            # Revisions name their schemas; lookups of tables by name must find those of this service.
            await connection.execute(sa.text(f"SET search_path = {schema}"))
            await connection.commit()
            await connection.run_sync(work)
    except sa.exc.SQLAlchemyError as error:
        if not _is_away(error):
            raise
        raise errors.Unavailable(
            "The database became unavailable during a migration. Migrate again; it continues where it stopped."
        ) from error
    finally:
        await opened.close()


def _is_away(error: BaseException | None) -> bool:
    # The failure to end what was interrupted may hide the lost connection. 08 and 57: connection exceptions and
    # operator
    # intervention (PostgreSQL, appendix A).
    while error is not None:
        if isinstance(error, sa.exc.DBAPIError):
            state = getattr(error.orig, "sqlstate", None) or ""
            if error.connection_invalidated or state[:2] in ("08", "57"):
                return True
        error = error.__context__
    return False


@contextlib.asynccontextmanager
async def _connected(opened: database.Database) -> AsyncGenerator[AsyncConnection]:
    # Alembic begins and ends the transactions itself.
    if not await opened.check():
        raise errors.Unavailable("The database does not answer. Migrate again when it is available.")
    async with opened.engine.connect() as connection:
        yield connection


@contextlib.asynccontextmanager
async def _alone(opened: database.Database) -> AsyncGenerator[None]:
    async with opened.connection() as connection:
        await _lock(connection)
        # The lock ends with the connection, however this process ends.
        yield


async def _lock(connection: AsyncConnection) -> None:
    # Polls instead of waiting: a waiting statement holds a snapshot, and whatever a revision waits for (CREATE INDEX
    # CONCURRENTLY, say) would wait for it.
    deadline = asyncio.get_running_loop().time() + _LOCK_PATIENCE_SECONDS
    statement = sa.text("SELECT pg_try_advisory_lock(:key)")
    while not (await connection.execute(statement, {"key": _LOCK_KEY})).scalar_one():
        if asyncio.get_running_loop().time() > deadline:
            raise errors.Unavailable(
                f"Another process has been migrating this database for {_LOCK_PATIENCE_SECONDS:.0f} s. "
                f"See pg_stat_activity for what it is doing, and try again."
            )
        await asyncio.sleep(0.1)
