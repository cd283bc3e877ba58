"""Files that tokenizations share: the way to the schema that allows it and back, under code that knows none of it."""

import asyncio
import uuid
from typing import Any

import asyncpg
import pytest

from services.catalog.server.migrations import shared_files
from services.catalog.server.migrations.schema import runner
from services.runtime.settings import DatabaseSettings
from tests.migrations import legacy
from tests.migrations.test_live_traffic import _traffic


@pytest.fixture
async def at_four(database_settings: DatabaseSettings) -> asyncpg.Connection:
    """Yield a connection of code that knows no sharing, to a database as it left it."""
    await asyncio.to_thread(runner.upgrade, database_settings)
    await asyncio.to_thread(runner.downgrade, database_settings, "0004")
    connection = await legacy.connect(database_settings.url)
    await connection.execute("ALTER TABLE dataset_tokenizations DROP COLUMN shared_from")
    await connection.execute("DROP TABLE tokenization_repairs")
    yield connection
    await connection.close()


async def _dataset(connection: asyncpg.Connection) -> uuid.UUID:
    dataset = uuid.uuid4()
    await connection.execute(
        "INSERT INTO datasets (id, name, source, raw_path, status) VALUES ($1, $2, '{}', 'raw', 'READY')",
        dataset,
        f"docs-{dataset}",
    )
    return dataset


async def _tokenization(connection: asyncpg.Connection, dataset: uuid.UUID, number: int, path: str, *keys: str) -> str:
    """Return what code that knows no sharing writes for a tokenization with files of these keys."""
    model = f"m_{number:08x}"
    await connection.execute(
        "INSERT INTO models (id, name, repo_id, status) VALUES ($1, $1, 'x', 'READY') ON CONFLICT DO NOTHING", model
    )
    uid = f"tok_{dataset}_{model}"
    await connection.execute(
        "INSERT INTO dataset_tokenizations (id, dataset_id, model_id, tokenized_path, status, manifest_digest) "
        "VALUES ($1, $2, $3, $4, 'READY', 'abc')",
        uid,
        dataset,
        model,
        path,
    )
    for ordinal, key in enumerate(keys):
        await connection.execute(
            "INSERT INTO tokenization_files (tokenization_id, ordinal, key, sha256) VALUES ($1, $2, $3, 'abc')",
            uid,
            ordinal,
            key,
        )
    return uid


async def _rows(connection: asyncpg.Connection) -> list[list[dict[str, Any]]]:
    return [await legacy.rows(connection, table) for table in ("dataset_tokenizations", "tokenization_files")]


async def _keys(connection: asyncpg.Connection, uid: str) -> list[str]:
    found = await connection.fetch("SELECT key FROM tokenization_files WHERE tokenization_id = $1 ORDER BY 1", uid)
    return [row["key"] for row in found]


async def test_old_code_runs_during_both_phases(
    database_settings: DatabaseSettings, at_four: asyncpg.Connection
) -> None:
    dataset = await _dataset(at_four)
    connection = await legacy.connect(database_settings.url)
    made = {await _tokenization(at_four, dataset, 1 << 20, "kept", "kept/a"): ["kept/a"]}

    async def tokenize(number: int) -> None:
        keys = [f"{number}/a", f"{number}/b"]
        made[await _tokenization(connection, dataset, number, f"path {number}", *keys)] = keys
        if number % 3 == 0:
            gone = f"tok_{dataset}_m_{number // 2:08x}"
            await connection.execute("DELETE FROM dataset_tokenizations WHERE id = $1", gone)
            made.pop(gone, None)

    async with _traffic(tokenize) as traffic:
        await traffic.pass_(20)
        await asyncio.to_thread(runner.upgrade, database_settings, "pre")
        assert await asyncio.to_thread(runner.current, database_settings) == "0005"
        await traffic.pass_(20)
        with pytest.raises(asyncpg.UniqueViolationError):
            await _tokenization(at_four, dataset, 1 << 21, "other", "kept/a")
        await asyncio.to_thread(runner.upgrade, database_settings, "post")
        await traffic.pass_(20)
    await connection.close()
    await asyncio.to_thread(runner.check, database_settings)
    made[f"tok_{dataset}_m_{1 << 21:08x}"] = []
    listed = {row["id"] for row in await legacy.rows(at_four, "dataset_tokenizations")}
    assert listed == made.keys()
    assert {uid: await _keys(at_four, uid) for uid in made} == made
    # Now the key may repeat.
    shared = await _tokenization(at_four, dataset, 1 << 22, "kept", "kept/a")
    assert await _keys(at_four, shared) == ["kept/a"]


async def test_what_is_shared_comes_back_whole(database_settings: DatabaseSettings) -> None:
    await asyncio.to_thread(runner.upgrade, database_settings)
    connection = await legacy.connect(database_settings.url)
    dataset = await _dataset(connection)
    for number, keys in enumerate((("a", "b"), ("a", "b"), ("c",), ("b", "a"))):
        uid = await _tokenization(connection, dataset, number, "path", *keys)
        await connection.execute("UPDATE dataset_tokenizations SET shared_from = 'first' WHERE id = $1", uid)
    before = await _rows(connection)
    for revision in ("0005", "0004", "0003", "0001"):
        await asyncio.to_thread(runner.downgrade, database_settings, revision)
        await asyncio.to_thread(runner.upgrade, database_settings)
        assert await _rows(connection) == before, revision
    await asyncio.to_thread(runner.check, database_settings)
    assert not await connection.fetchval(shared_files.IS_PUT_ASIDE)
    await connection.close()


async def test_old_code_does_not_break_shared_files(database_settings: DatabaseSettings) -> None:
    await asyncio.to_thread(runner.upgrade, database_settings)
    connection = await legacy.connect(database_settings.url)
    dataset = await _dataset(connection)
    first, second, third = [await _tokenization(connection, dataset, number, "path", "a", "b") for number in range(3)]
    await asyncio.to_thread(runner.downgrade, database_settings, "0004")
    assert [len(await _keys(connection, uid)) for uid in (first, second, third)] == [2, 0, 0]
    # Its garbage collector leaves what is listed: the list passes on to one who still shares the files.
    await connection.execute("DELETE FROM dataset_tokenizations WHERE id = $1", first)
    assert [await _keys(connection, uid) for uid in (second, third)] == [["a", "b"], []]
    # It empties the folder of what it makes.
    await _tokenization(connection, dataset, 0, "path", "new")
    path = await connection.fetchval("SELECT tokenized_path FROM dataset_tokenizations WHERE id = $1", first)
    assert path.startswith("path_")
    # A list that is written again for its holder passes to nobody.
    await connection.execute("DELETE FROM tokenization_files WHERE tokenization_id = $1", first)
    await connection.execute("DELETE FROM dataset_tokenizations WHERE id = $1", third)
    await asyncio.to_thread(runner.upgrade, database_settings)
    assert [await _keys(connection, uid) for uid in (first, second)] == [[], ["a", "b"]]
    await connection.close()


async def test_an_index_that_was_interrupted_is_made_again(
    database_settings: DatabaseSettings, at_four: asyncpg.Connection
) -> None:
    await at_four.execute(shared_files.INDEX)
    await at_four.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('public.ix_tokenization_files_key')"
    )
    assert await at_four.fetchval(shared_files.INVALID_INDEX)
    await asyncio.to_thread(runner.upgrade, database_settings)
    assert not await at_four.fetchval(shared_files.INVALID_INDEX)
    await asyncio.to_thread(runner.check, database_settings)
