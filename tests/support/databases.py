"""Databases of the test server: made for one test, dropped after it."""

import asyncio
import concurrent.futures
import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator

import asyncpg

from services.embedded.postgres import Postgres


def url_of(server: Postgres, database: str) -> str:
    """Return the address of a database of that server."""
    return server.url.rpartition("/")[0] + "/" + database


async def execute(server: Postgres, statement: str) -> None:
    """Run one statement outside a transaction."""
    connection = await asyncpg.connect(url_of(server, "postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def fresh(server: Postgres, *, template: str = "template0") -> AsyncIterator[str]:
    """Yield the address of a new database, a copy of `template`."""
    name = f"test_{uuid.uuid4().hex}"
    # WAL_LOG would copy through the log; a template is small and at rest.
    await execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    try:
        yield url_of(server, name)
    finally:
        await execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def migrated(server: Postgres) -> str:
    """Make a database with the catalog's schema, by the command that a user runs, and return its name."""
    name = f"migrated_{uuid.uuid4().hex}"
    with concurrent.futures.ThreadPoolExecutor(1) as thread:  # this thread's event loop is pytest's
        thread.submit(asyncio.run, execute(server, f'CREATE DATABASE "{name}"')).result()
    subprocess.run(
        [sys.executable, "-m", "services.catalog", "migrate", "up"],
        env={**os.environ, "POLYTOK_DATABASE_URL": url_of(server, name)},
        check=True,
    )
    return name
