"""Postgres through SQLAlchemy's asyncio engine and asyncpg.

A database that cannot be reached, or a pool without a free connection, raises errors.Unavailable; a full disk raises
errors.ResourceExhausted (DISK_FULL). Both may be retried. All other database errors pass unchanged: they are bugs, or
constraint violations that the caller expects.
"""

import contextlib
from collections.abc import AsyncGenerator, Generator

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from polytok import disk_space, errors
from services.runtime.settings import DatabaseSettings

_POOL_TIMEOUT_SECONDS = 5.0
_CONNECT_TIMEOUT_SECONDS = 10.0

# SQLSTATE classes and codes (PostgreSQL, appendix A) that say nothing about the statement.
_AWAY_CLASSES = frozenset({"08", "57"})
_REFUSED_CLASSES = frozenset({"28", "3D"})
# Losers of a race, which the server asks to retry, and statements that took too long.
_BUSY_CODES = frozenset({"40001", "40P01", "55P03", "57014"})
# Insufficient resources. A full disk (below) does not pass in a moment.
_DISK_FULL = "53100"
_SHORT_CODES = {"53200": "is out of memory", "53300": "has as many connections as it allows"}

_AWAY = "The database does not answer. Try again when it is available."


class Database:
    """A pool of connections to one database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        # Shares the pool; a read then costs one round trip, without BEGIN and ROLLBACK.
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """Return a connection in a transaction that commits at exit and rolls back on any error."""
        with _unavailable():
            async with _acquired(self.engine) as connection, connection.begin():
                yield connection

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[AsyncConnection]:
        """Return a connection on which each statement is its own transaction, for reads."""
        with _unavailable():
            async with _acquired(self._autocommit) as connection:
                yield connection

    async def check(self) -> bool:
        """Return whether the database answers."""
        try:
            async with self.connection() as connection:
                await connection.execute(sa.text("SELECT 1"))
        except errors.PolytokError:
            return False
        return True

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def open_database(settings: DatabaseSettings, *, search_path: str = "public") -> Database:
    """Create the pool; connections are opened when needed."""
    url = sa.make_url(settings.url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(
        url,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_SECONDS,
        pool_recycle=1800,
        connect_args={
            "timeout": _CONNECT_TIMEOUT_SECONDS,
            "server_settings": {
                "application_name": "polytok",
                # Our statements are short: compiling them costs more than it saves.
                "jit": "off",
                # Nothing waits forever behind a stuck transaction.
                "lock_timeout": "30s",
                "search_path": search_path,
            },
        },
    )
    return Database(engine)


@contextlib.asynccontextmanager
async def _acquired(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    connection = engine.connect()
    try:
        await connection.start()
    # Before a connection exists, asyncpg raises its own and the operating system's errors unwrapped.
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _ours(error) or errors.Unavailable(_AWAY) from error
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.contextmanager
def _unavailable() -> Generator[None]:
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise errors.Unavailable("All database connections are in use. Try again in a moment.") from error
    except sa.exc.DBAPIError as error:
        ours = errors.Unavailable(_AWAY) if error.connection_invalidated else _ours(error.orig)
        if ours is None:
            raise
        raise ours from error


def _ours(error: BaseException | None) -> errors.PolytokError | None:
    """Convert a driver's error that is not about the statement."""
    state = getattr(error, "sqlstate", None) or ""
    if state[:2] in _REFUSED_CLASSES:
        return errors.FailedPrecondition(f"The database refuses POLYTOK_DATABASE_URL: {error}.")
    if state == _DISK_FULL or (state[:2] == "58" and "No space left" in str(error)):
        return disk_space.full("the database was writing")
    if state in _SHORT_CODES:
        return errors.Unavailable(f"The database {_SHORT_CODES[state]} ({state}). Try again in a moment.")
    if state in _BUSY_CODES or state[:2] == "53":
        return errors.Unavailable(f"The database is busy ({state}). Try again.")
    if state[:2] in _AWAY_CLASSES or isinstance(error, OSError):
        return errors.Unavailable(_AWAY)
    return None
