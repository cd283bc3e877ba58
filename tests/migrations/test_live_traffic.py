"""Migrating while old and new code run."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from polytok import errors
from services.catalog.server import migrations
from services.catalog.server.migrations.schema import runner
from services.runtime.migrations.runner import Phase
from services.runtime.settings import DatabaseSettings
from tests.migrations import legacy


class Traffic:
    """Calls something again and again, and counts; the first failure is kept."""

    def __init__(self) -> None:
        self.rounds = 0
        self.failure: BaseException | None = None
        self.stopping = False
        self._passed = asyncio.Condition()

    async def run(self, action: Callable[[int], Awaitable[None]]) -> None:
        try:
            while not self.stopping:
                await action(self.rounds)
                self.rounds += 1
                async with self._passed:
                    self._passed.notify_all()
        except Exception as error:
            self.failure = error
            async with self._passed:
                self._passed.notify_all()

    async def pass_(self, rounds: int) -> None:
        """Wait until so many more have been made."""
        goal = self.rounds + rounds
        async with self._passed:
            await self._passed.wait_for(lambda: self.rounds >= goal or self.failure)
        assert self.failure is None, self.failure


@contextlib.asynccontextmanager
async def _traffic(action: Callable[[int], Awaitable[None]]) -> AsyncIterator[Traffic]:
    traffic = Traffic()
    task = asyncio.create_task(traffic.run(action))
    try:
        yield traffic
    finally:
        traffic.stopping = True
        await task
    assert traffic.failure is None, traffic.failure


def _life(connection: asyncpg.Connection, known: dict[uuid.UUID, str]) -> Callable[[int], Awaitable[None]]:
    """Return a dataset's life in old code, statement by statement; `known` is what old code believes."""

    async def live(number: int) -> None:
        identifier = await legacy.add(connection, name=f"Live {number % 5}")
        change = "UPDATE datasets SET status = $2, progress = $3, updated_at = now() WHERE id = $1"
        await connection.execute(change, identifier, "processing", 50.0)
        await connection.execute("UPDATE datasets SET raw_path = '/r', num_samples = 3 WHERE id = $1", identifier)
        await connection.execute(change, identifier, "tokenizing", 10.0)
        final = ("ready", "error", "tokenizing", "deleted")[number % 4]
        if final == "ready":
            columns = legacy.tokenized(f"tokenizer {number % 3}", path=f"/r_{identifier}")
            places = ", ".join(f"{column} = ${place}" for place, column in enumerate(columns, start=2))
            await connection.execute(f"UPDATE datasets SET {places} WHERE id = $1", identifier, *columns.values())
        elif final == "error":
            await connection.execute(
                "UPDATE datasets SET status = 'error', error_message = 'no' WHERE id = $1", identifier
            )
        elif final == "deleted":
            await connection.execute("DELETE FROM datasets WHERE id = $1", identifier)
        known[identifier] = final
        # Old code reads what it wrote, in its own words.
        row = await connection.fetchrow("SELECT status, name FROM datasets WHERE id = $1", identifier)
        assert (row is None) == (final == "deleted")
        assert row is None or (row["status"], row["name"]) == (final, f"Live {number % 5}")

    return live


async def _upgrade(settings: DatabaseSettings, phase: Phase) -> None:
    await asyncio.to_thread(runner.upgrade, settings, phase)


async def test_old_code_runs_on_during_the_first_phase(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    await before.execute(
        "INSERT INTO datasets (name, status, raw_path, tokenized_path, num_tokens) "
        "SELECT 'stock ' || n, 'ready', '/r', '/t', n FROM generate_series(1, 1000) AS n"
    )
    known: dict[uuid.UUID, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        writers = []
        for _ in range(3):
            connection = await legacy.connect(database_settings.url)
            stack.push_async_callback(connection.close)
            writers.append(await stack.enter_async_context(_traffic(_life(connection, known))))
        await asyncio.gather(*(writer.pass_(5) for writer in writers))
        await _upgrade(database_settings, "pre")
        await asyncio.gather(*(writer.pass_(5) for writer in writers))
    assert await before.fetchval("SELECT count(*) FROM rollout.unsynced") == 0
    statuses = {
        row["id"]: (row["dataset"], row["tokenization"])
        for row in await before.fetch(
            "SELECT d.id, d.status AS dataset, t.status AS tokenization FROM rollout.datasets AS d "
            "LEFT JOIN dataset_tokenizations AS t ON t.dataset_id = d.id"
        )
    }
    expected = {"ready": ("READY", "READY"), "error": ("READY", "ERROR"), "tokenizing": ("READY", "PROCESSING")}
    for identifier, final in known.items():
        # An error from before the migration does not tell what failed.
        either = {expected.get(final), ("ERROR", None)} if final == "error" else {expected.get(final)}
        assert statuses.get(identifier) in either
    assert await before.fetchval("SELECT count(*) FROM rollout.datasets WHERE name LIKE 'stock-%'") == 1000


async def test_new_code_runs_on_during_the_second_phase(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    await legacy.fill(before)
    await _upgrade(database_settings, "pre")
    made: set[uuid.UUID] = set()
    connection = await legacy.connect(database_settings.url, search_path=migrations.SEARCH_PATH)

    async def make(number: int) -> None:
        identifier = uuid.uuid4()
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO datasets (id, name, source, raw_path) VALUES ($1, $2, '{}', 'k')",
                identifier,
                f"n-{number}",
            )
            await connection.execute(
                "INSERT INTO models (id, name, repo_id) VALUES ($1, $2, 'x') ON CONFLICT DO NOTHING",
                f"m_{number:08x}",
                f"new-{number}",
            )
            await connection.execute(
                "INSERT INTO dataset_tokenizations (id, dataset_id, model_id, tokenized_path) VALUES ($1, $2, $3, 'k')",
                f"tok_{identifier}",
                identifier,
                f"m_{number:08x}",
            )
        await connection.execute("UPDATE datasets SET status = 'READY' WHERE id = $1", identifier)
        made.add(identifier)

    async with _traffic(make) as traffic:
        await traffic.pass_(20)
        await _upgrade(database_settings, "post")
        await traffic.pass_(20)
    await connection.close()
    ready = {row["id"] for row in await before.fetch("SELECT id FROM public.datasets WHERE status = 'READY'")}
    assert made <= ready
    await asyncio.to_thread(runner.check, database_settings)


async def test_upgrade_waits_for_long_transaction_without_blocking(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    identifier = await legacy.add(before, name="held")
    other = await legacy.connect(database_settings.url)
    transaction = before.transaction()
    await transaction.start()
    await before.execute("UPDATE datasets SET progress = 5 WHERE id = $1", identifier)
    migrating = asyncio.create_task(_upgrade(database_settings, "pre"))

    async def write(number: int) -> None:
        async with asyncio.timeout(60):
            await legacy.add(other, name=f"quick {number}")

    async with _traffic(write) as traffic:
        await traffic.pass_(200)
        assert not migrating.done()
        await transaction.commit()
        await migrating
    await other.close()
    assert await before.fetchval("SELECT progress FROM rollout.datasets WHERE id = $1", identifier) == 5


@pytest.fixture
async def between(database_settings: DatabaseSettings, before: asyncpg.Connection) -> asyncpg.Connection:
    """Return a connection of old code after the first phase, with one tokenized dataset."""
    await legacy.add(before, name="corpus", **legacy.tokenized())
    await _upgrade(database_settings, "pre")
    return before


async def _tokenizations(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    found = await connection.fetch(
        "SELECT m.name, t.status, t.num_tokens, t.tokenized_path FROM dataset_tokenizations AS t "
        "JOIN rollout.models AS m ON m.id = t.model_id ORDER BY 1, 2"
    )
    return [tuple(row) for row in found]


async def test_retokenizing_replaces_files_of_same_path(between: asyncpg.Connection) -> None:
    await between.execute("UPDATE datasets SET status = 'tokenizing', progress = 1")
    assert await _tokenizations(between) == [("gpt2", "PROCESSING", 1234, "data/corpus_tokenized")]
    again = "UPDATE datasets SET status = 'ready', num_tokens = $1, tokenized_path = $2, metadata = $3"
    await between.execute(again, 5, "/data/other", {"tokenization": {"tokenizer_name": "llama"}})
    gpt2 = ("gpt2", "READY", 1234, "data/corpus_tokenized")
    assert await _tokenizations(between) == [gpt2, ("llama", "READY", 5, "data/other")]
    await between.execute(again, 6, "/data/other", {"tokenization": {"tokenizer_name": "phi"}})
    assert await _tokenizations(between) == [gpt2, ("phi", "READY", 6, "data/other")]


async def test_a_failed_tokenization_leaves_its_dataset_ready(between: asyncpg.Connection) -> None:
    await between.execute("UPDATE datasets SET status = 'tokenizing'")
    await between.execute("UPDATE datasets SET status = 'error', error_message = 'bad token'")
    (dataset,) = await legacy.rows(between, "rollout.datasets")
    assert (dataset["status"], dataset["error_message"]) == ("READY", "")
    assert [found[1] for found in await _tokenizations(between)] == ["ERROR"]


async def test_a_failed_download_leaves_its_tokenization_ready(between: asyncpg.Connection) -> None:
    await between.execute("UPDATE datasets SET status = 'downloading', progress = 3")
    await between.execute("UPDATE datasets SET status = 'error', error_message = 'no network'")
    (dataset,) = await legacy.rows(between, "rollout.datasets")
    assert (dataset["status"], dataset["error_message"], dataset["progress"]) == ("ERROR", "no network", 3)
    assert [found[1] for found in await _tokenizations(between)] == ["READY"]


async def test_what_new_code_set_is_not_overwritten(between: asyncpg.Connection) -> None:
    await between.execute(
        "UPDATE rollout.datasets SET num_shards = 3, fingerprint = 'f', metadata = metadata || '{\"owner\": \"me\"}'"
    )
    await between.execute("UPDATE datasets SET name = 'Renamed', size_bytes = 7")
    (dataset,) = await legacy.rows(between, "rollout.datasets")
    assert (dataset["name"], dataset["num_shards"], dataset["size_bytes"]) == ("corpus", 3, 7)
    assert dataset["metadata"] == {"display_name": "Renamed", "owner": "me"}


async def test_what_new_code_deletes_does_not_reappear(
    database_settings: DatabaseSettings, between: asyncpg.Connection
) -> None:
    await legacy.add(between, name="second", **legacy.tokenized())
    await between.execute("DELETE FROM dataset_tokenizations")
    assert await between.fetchval("SELECT count(tokenized_path) FROM public.datasets") == 0
    await between.execute("DELETE FROM rollout.datasets WHERE name = 'second'")
    assert await between.fetchval("SELECT count(*) FROM public.datasets") == 1
    await _upgrade(database_settings, "post")
    assert await between.fetchval("SELECT count(*) FROM dataset_tokenizations") == 0
    assert [row["name"] for row in await between.fetch("SELECT name FROM datasets")] == ["corpus"]


async def test_dataset_used_by_new_code_survives_old_delete(between: asyncpg.Connection) -> None:
    await between.execute(
        "INSERT INTO dataset_tokenizations (id, dataset_id, model_id, variant, tokenized_path) "
        "SELECT id || '_new', dataset_id, model_id, 'new', 'k' FROM dataset_tokenizations"
    )
    await between.execute("DELETE FROM datasets")
    (dataset,) = await legacy.rows(between, "rollout.datasets")
    assert (dataset["status"], dataset["error_reason"]) == ("ERROR", "SOURCE_NOT_FOUND")
    assert [found[3] for found in await _tokenizations(between)] == ["k"]


async def test_both_tokenizing_for_one_model_keep_their_own(between: asyncpg.Connection) -> None:
    identifier = await legacy.add(between, name="raw", status="ready", raw_path="/r", num_samples=1)
    await between.execute(
        "INSERT INTO dataset_tokenizations (id, dataset_id, model_id, tokenized_path, num_tokens) "
        "SELECT 'tok_new', $1, model_id, 'k', 1 FROM dataset_tokenizations",
        identifier,
    )
    await between.execute(
        "UPDATE datasets SET tokenized_path = '/r_t', num_tokens = 2, metadata = $2 WHERE id = $1",
        identifier,
        {"tokenization": {"tokenizer_name": "gpt2"}},
    )
    found = await between.fetch(
        "SELECT variant, num_tokens FROM dataset_tokenizations WHERE dataset_id = $1 ORDER BY 1", identifier
    )
    assert [tuple(row) for row in found] == [("", 1), ("previous", 2)]


async def test_row_that_cannot_be_copied_blocks_only_second_phase(
    database_settings: DatabaseSettings, between: asyncpg.Connection
) -> None:
    await between.execute("ALTER TABLE rollout.datasets ADD CONSTRAINT temporary CHECK (num_samples < 1000)")
    await between.execute("UPDATE datasets SET num_samples = 1000")
    await between.execute("UPDATE datasets SET num_samples = 1001, size_bytes = 5")
    assert await between.fetchval("SELECT num_samples FROM datasets") == 1001
    with pytest.raises(errors.FailedPrecondition, match="temporary"):
        await _upgrade(database_settings, "post")
    assert await between.fetchval("SELECT num_samples FROM public.datasets") == 1001
    await between.execute("ALTER TABLE rollout.datasets DROP CONSTRAINT temporary")
    await _upgrade(database_settings, "post")
    assert tuple(await between.fetchrow("SELECT num_samples, size_bytes FROM datasets")) == (1001, 5)
