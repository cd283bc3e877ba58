"""Fixtures for every test: real servers, and a database, a namespace and a storage of its own for each test.

What a fixture needs of the services is imported by it: a test of one service runs where another's are not installed.
"""

from __future__ import annotations

import logging
import os
import pathlib
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

from services.embedded import nats as nats_servers
from services.embedded.postgres import Postgres
from tests.support import databases, servers, stacks

if TYPE_CHECKING:
    import nats.aio.client

    from services.runtime import database as runtime_database
    from services.runtime import settings
    from services.runtime import storage as storages
    from tests.support import s3


# A shell that runs this in the background has it ignore Ctrl-C, and every program that a test starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Read by torch when a test first imports it, and inherited by the processes that tests start. Tiny matrices are no work
# to share: threads only wait for one another behind every operation. Where a run asks for several all the same, they
# sleep while they wait: spinning keeps a core from what they wait for.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How fast the machine is decides nothing, and two runs of the same code try the same examples.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")


_PROOFS = "POLYTOK_TOKENIZER_PROOFS"
_proofs = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Share proofs of engines between all tests of a run, as the processes of a worker do, and with no other run."""
    if _PROOFS not in os.environ:
        folder = config.stash[_proofs] = tempfile.TemporaryDirectory(prefix="polytok-proofs-")
        os.environ[_PROOFS] = folder.name


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete the proofs that this process, rather than one that started it, made a folder for."""
    if (folder := config.stash.get(_proofs, None)) is not None:
        del os.environ[_PROOFS]
        folder.cleanup()


# What a test needs when it uses one of these, by itself or through another fixture.
_SERVERS = {"postgres", "nats_server", "s3_server", "stack", "own_nats"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, so that `make test-fast` can leave them out."""
    for item in items:
        if _SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(autouse=True)
def _restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a test, or a `main` that it runs, configures for the whole process."""
    import structlog

    handlers, level, configuration = logging.root.handlers[:], logging.root.level, structlog.get_config()
    configure = structlog.configure
    # A logger that remembers its configuration would keep it, and a stream that is closed, beyond the test.
    monkeypatch.setattr(
        structlog, "configure", lambda **given: configure(**given | {"cache_logger_on_first_use": False})
    )
    yield
    configure(**configuration)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Yield a Postgres server for the whole session."""
    with servers.running(
        lambda folder, port: Postgres(folder, port=port, password=servers.PASSWORD, durable=False)
    ) as server:
        yield server


@pytest.fixture(scope="session")
def nats_server() -> Iterator[nats_servers.Nats]:
    """Yield a NATS server with JetStream for the whole session."""
    with servers.running(
        lambda folder, port: nats_servers.Nats(folder, port=port, password=servers.PASSWORD)
    ) as server:
        yield server


@pytest.fixture
async def database_settings(postgres: Postgres) -> AsyncIterator[settings.DatabaseSettings]:
    """Yield an empty database of the test's own."""
    from services.runtime import settings

    async with databases.fresh(postgres) as url:
        yield settings.DatabaseSettings(url=url)


@pytest.fixture(scope="session")
def migrated_template(postgres: Postgres) -> str:
    """Return the name of a database that the catalog's migrations have made, for copying."""
    return databases.migrated(postgres)


@pytest.fixture
async def migrated_database_settings(
    postgres: Postgres, migrated_template: str
) -> AsyncIterator[settings.DatabaseSettings]:
    """Yield a database of the test's own with the catalog's schema."""
    from services.runtime import settings

    async with databases.fresh(postgres, template=migrated_template) as url:
        yield settings.DatabaseSettings(url=url)


@pytest.fixture
async def database(migrated_database_settings: settings.DatabaseSettings) -> AsyncIterator[runtime_database.Database]:
    """Yield an open database of the test's own with the catalog's schema."""
    from services.catalog.server.migrations import SEARCH_PATH
    from services.runtime import database as runtime_database

    opened = runtime_database.open_database(migrated_database_settings, search_path=SEARCH_PATH)
    yield opened
    await opened.close()


@pytest.fixture
def messaging_settings(nats_server: nats_servers.Nats) -> settings.MessagingSettings:
    """Return the NATS server with a namespace of the test's own."""
    from services.runtime import settings

    return settings.MessagingSettings(url=nats_server.url, namespace=f"test{uuid.uuid4().hex[:12]}")


@pytest.fixture
async def nats_client(messaging_settings: settings.MessagingSettings) -> AsyncIterator[nats.aio.client.Client]:
    """Yield a connected NATS client."""
    from services.runtime import messaging

    client = await messaging.connect(messaging_settings, "test")
    yield client
    await client.close()


@pytest.fixture
def storage(tmp_path: pathlib.Path) -> storages.Storage:
    """Return a storage in a folder of the test's own."""
    from services.runtime import storage as storages

    return storages.Storage(str(tmp_path / "storage"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3.Server]:
    """Yield an S3 server for the whole session."""
    from tests.support import s3

    with s3.running() as server:
        yield server


@pytest.fixture
def bucket(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the name of a bucket of the test's own; the environment leads this process to it."""
    import fsspec

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    # What was opened before keeps the environment of its day.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield s3_server.bucket(f"test-{uuid.uuid4().hex}")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="session")
def stack() -> Iterator[stacks.Stack]:
    """Yield a whole embedded stack for the session, started as a user starts it."""
    with stacks.new_home() as home, stacks.started(home) as running:
        yield running


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Return the folder of large real inputs that lies beside a developer's checkout; a clone has none."""
    folder = pathlib.Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("there is no folder ../shared with large inputs beside this checkout")
    return folder
