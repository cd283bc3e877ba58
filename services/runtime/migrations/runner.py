"""Applying a service's revisions.

One process at a time works on a database; the others wait, so that replicas may start together.
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
# Any number will do, if it is always the same and nobody else's.
_LOCK_KEY = 7_310_871_224_019_115_077
_LOCK_PATIENCE_SECONDS = 1800.0


class Runner:
    """The schema of one service. Its methods block: a coroutine calls them through `asyncio.to_thread`.

    `schema` is the Postgres schema that holds its tables and Alembic's own; `package` the one whose subpackage
    `versions` holds the revisions; `program` what a user runs, such as `services.catalog`.
    """

    def __init__(self, *, schema: str, package: str, metadata: sa.MetaData, program: str) -> None:
        self.schema = schema
        self.program = program
        self._package = package
        self._metadata = metadata

    def upgrade(self, settings: DatabaseSettings, phase: Phase = "all", *, storage_root: str = "") -> None:
        """Apply what is missing: before a rollout "pre", after it "post", or "all" where no old code runs.

        With `storage_root`, paths of old records below it become storage keys.
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
        """Go back to a revision: an id, "-1" for one back, or "base"."""
        self._run(
            settings, lambda connection: command.downgrade(self._configuration(connection, storage_root), revision)
        )

    def current(self, settings: DatabaseSettings) -> str | None:
        """Tell the revision that the database is at; None before the first."""
        found: list[str | None] = []
        self._run(settings, lambda connection: found.append(self._revision(connection)), alone=False)
        return found[0]

    def check(self, settings: DatabaseSettings) -> None:
        """Raise FailedPrecondition unless the database is at the last revision and has exactly the tables."""
        self._run(settings, self._check, alone=False)

    def _run(self, settings: DatabaseSettings, work: Callable[[sa.Connection], None], *, alone: bool = True) -> None:
        asyncio.run(_run_async(settings, self.schema, work, alone=alone))

    def _check(self, connection: sa.Connection) -> None:
        head = script.ScriptDirectory.from_config(self._configuration(connection, "")).get_current_head()
        revision = self._revision(connection)
        if revision != head:
            raise errors.FailedPrecondition(
                f"The database is at revision {revision or 'none'}, not {head}; "
                f"run `python -m {self.program} migrate up`."
            )
        differences = comparison.differences(connection, self._metadata, self.schema)
        if differences:
            service = self.program.rpartition(".")[2]
            raise errors.FailedPrecondition(
                f"The database's tables are not the {service}'s: {'; '.join(differences[:20])}. Add a revision to "
                f"{self._package.replace('.', '/')}/versions, or undo what was changed by hand."
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
        connection.rollback()  # Alembic would take a transaction that is left open for its caller's
        return revision

    def _target(self, scripts: script.ScriptDirectory, connection: sa.Connection, phase: Phase) -> str | None:
        """Return the revision to upgrade to: the last of those missing that may run in this phase."""
        revision = self._revision(connection)
        missing = [step for step in reversed(list(scripts.walk_revisions())) if _is_after(step.revision, revision)]
        if phase == "post" and missing and missing[0].module.phase != phase:
            raise errors.FailedPrecondition(
                f"The database is at revision {revision or 'none'}; run the phase 'pre' and roll out before 'post'."
            )
        # Once no code but this one runs, what prepares a later rollout harms nobody either.
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
            "The database went away during a migration; migrate again when it is back, and it goes on where it stopped."
        ) from error
    finally:
        await opened.close()


def _is_away(error: BaseException | None) -> bool:
    # The loss may hide behind the failure to end what it interrupted. 08 and 57: connection exceptions and operator
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
        raise errors.Unavailable("The database does not answer; migrate again when it is back.")
    async with opened.engine.connect() as connection:
        yield connection


@contextlib.asynccontextmanager
async def _alone(opened: database.Database) -> AsyncGenerator[None]:
    async with opened.connection() as connection:
        await _lock(connection)
        # The lock ends with the connection, however this process ends.
        yield


async def _lock(connection: AsyncConnection) -> None:
    # Asks again and again rather than waits: a statement that waits holds a snapshot, and would make whatever a
    # revision waits for (CREATE INDEX CONCURRENTLY, say) wait for it.
    deadline = asyncio.get_running_loop().time() + _LOCK_PATIENCE_SECONDS
    statement = sa.text("SELECT pg_try_advisory_lock(:key)")
    while not (await connection.execute(statement, {"key": _LOCK_KEY})).scalar_one():
        if asyncio.get_running_loop().time() > deadline:
            raise errors.Unavailable(
                f"Another process has been migrating this database for {_LOCK_PATIENCE_SECONDS:.0f} s; "
                f"look what it is at (pg_stat_activity), and try again."
            )
        await asyncio.sleep(0.1)
