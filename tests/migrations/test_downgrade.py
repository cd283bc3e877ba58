"""Up, down and up again: nothing is lost on the way."""

import asyncio
import uuid
from typing import Any

import asyncpg
import pytest

from polytok import errors
from services.catalog.server.migrations import new_schema
from services.catalog.server.migrations.schema import runner
from services.runtime.migrations.runner import Phase
from services.runtime.settings import DatabaseSettings
from tests.migrations import legacy

_NEW = [relation.split(".")[1] for relation in new_schema.RELATIONS]


async def _up(settings: DatabaseSettings, phase: Phase = "all") -> None:
    await asyncio.to_thread(runner.upgrade, settings, phase)


async def _down(settings: DatabaseSettings, revision: str) -> None:
    await asyncio.to_thread(runner.downgrade, settings, revision)


async def _old(connection: asyncpg.Connection) -> list[list[dict[str, Any]]]:
    return [await legacy.rows(connection, relation) for relation in ("public.datasets", "public.models")]


async def _new(connection: asyncpg.Connection) -> list[list[dict[str, Any]]]:
    return [await legacy.rows(connection, relation) for relation in _NEW]


async def _add_new_records(connection: asyncpg.Connection) -> uuid.UUID:
    """Return a dataset with all that can hang on it, as new code makes them."""
    dataset, job, task = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    await connection.execute(
        "INSERT INTO datasets (id, name, source, raw_path, num_samples, status, metadata, job_id, progress) VALUES "
        "($1, 'new-one', $2, $3, 7, 'READY', $4, $5, 100)",
        dataset,
        {"hub": {"repo_id": "org/new", "split": "train"}},
        f"datasets/{dataset}/raw",
        {"owner": "Ünï"},
        job,
    )
    await connection.execute(
        "INSERT INTO dataset_shards (dataset_id, ordinal, key, num_rows, sha256) VALUES ($1, 0, 'k', 7, 'abc')", dataset
    )
    await connection.execute("INSERT INTO jobs (id, kind, resource) VALUES ($1, 'tokenization', 'x')", job)
    await connection.execute(
        "INSERT INTO job_tasks (id, job_id, kind, payload, max_attempts) VALUES ($1, $2, 'k', $3, 4)",
        task,
        job,
        bytes(range(256)),
    )
    await connection.execute("INSERT INTO job_attempts (task_id, epoch, number, worker) VALUES ($1, 1, 1, 'w')", task)
    await connection.execute("INSERT INTO job_outbox (task_id, dispatch) VALUES ($1, 1)", task)
    await connection.execute(
        "INSERT INTO requests (request_id, method, request_hash, response) VALUES ($1, 'm', $2, $2)", task, b"\0\xff"
    )
    for number, model in enumerate(("m_aaaaaaaa", "m_bbbbbbbb")):
        await connection.execute(
            "INSERT INTO models (id, name, repo_id, status) VALUES ($1, $2, $3, 'READY')",
            model,
            f"model-{number}",
            f"org/model-{number}",
        )
        identifier = f"tok_{dataset}_{model}"
        await connection.execute(
            "INSERT INTO dataset_tokenizations (id, dataset_id, model_id, tokenized_path, status, progress, num_tokens,"
            " statistics, parameters) VALUES ($1, $2, $3, $1, 'READY', 100, 70, $4, $4)",
            identifier,
            dataset,
            model,
            {"max_length": 64},
        )
        await connection.execute(
            "INSERT INTO tokenization_files (tokenization_id, ordinal, key, sha256) "
            "VALUES ($1, 0, $1, 'abc'), ($1, 1, 'shared', 'abc')",
            identifier,
        )
        await connection.execute(
            "INSERT INTO tokenization_repairs (tokenization_id, tokenized_path) VALUES ($1, 'k')", identifier
        )
        await connection.execute(
            "INSERT INTO tokenization_holds (tokenization_id, holder, expires_at) VALUES ($1, 'x', now())", identifier
        )
    return dataset


@pytest.mark.parametrize("phase", ["pre", "all"])
async def test_old_rows_come_back_to_the_byte(
    database_settings: DatabaseSettings, before: asyncpg.Connection, phase: Phase
) -> None:
    await legacy.fill(before)
    # What is at work is declared failed at the end of a rollout; that may show.
    await before.execute(
        "DELETE FROM datasets WHERE lower(btrim(status)) IN ('downloading', 'processing', 'tokenizing')"
    )
    first = await _old(before)
    await _up(database_settings, phase)
    await _down(database_settings, "0001")
    assert await _old(before) == first


async def test_new_records_come_back_whole(database_settings: DatabaseSettings, before: asyncpg.Connection) -> None:
    await legacy.fill(before)
    await _up(database_settings)
    dataset = await _add_new_records(before)
    new = await _new(before)
    await _down(database_settings, "0001")
    row = await before.fetchrow("SELECT * FROM datasets WHERE id = $1", dataset)
    assert row is not None
    assert (row["name"], row["status"], row["repo_id"], row["num_tokens"]) == ("new-one", "ready", "org/new", 70)
    assert row["metadata"]["tokenization"]["tokenizer_name"] in {"org/model-0", "org/model-1"}
    one_old = await _old(before)
    await _up(database_settings)
    assert await _new(before) == new
    await _down(database_settings, "0001")
    assert await _old(before) == one_old


async def test_each_step_back_and_forth_keeps_everything(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    await legacy.fill(before)
    await _up(database_settings)
    await _add_new_records(before)
    new = await _new(before)
    for revision in ("0005", "0004", "0003", "0002", "0001", "0002", "0003", "0004", "0005"):
        await _down(database_settings, revision)
        await _up(database_settings)
        assert await _new(before) == new, revision
    await asyncio.to_thread(runner.check, database_settings)


async def test_what_new_code_changed_reaches_the_old_rows(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    kept = await legacy.add(before, name="kept", **legacy.tokenized())
    gone = await legacy.add(before, name="gone", **legacy.tokenized())
    bare = await legacy.add(before, name="bare", **legacy.tokenized())
    await _up(database_settings)
    await before.execute("UPDATE dataset_tokenizations SET num_tokens = 99 WHERE dataset_id = $1", kept)
    await before.execute("DELETE FROM dataset_tokenizations WHERE dataset_id = ANY ($1)", [gone, bare])
    await before.execute("DELETE FROM datasets WHERE id = $1", gone)
    await _down(database_settings, "0001")
    rows = {row["name"]: row for row in await before.fetch("SELECT * FROM datasets")}
    assert set(rows) == {"kept", "bare"}
    assert (rows["kept"]["num_tokens"], rows["kept"]["tokenized_path"]) == (99, "/data/corpus_tokenized")
    assert (rows["bare"]["num_tokens"], rows["bare"]["tokenized_path"]) == (None, None)
    assert (rows["bare"]["raw_path"], rows["bare"]["status"]) == ("/data/corpus", "ready")


async def test_changes_after_downgrade_are_kept(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    await legacy.add(before, name="changed", **legacy.tokenized())
    await legacy.add(before, name="deleted", **legacy.tokenized())
    await _up(database_settings)
    dataset = await _add_new_records(before)
    await before.execute("UPDATE jobs SET state = 'SUCCEEDED'")
    await _down(database_settings, "0001")
    await before.execute("UPDATE datasets SET num_tokens = 5 WHERE name = 'changed'")
    await before.execute("UPDATE datasets SET num_samples = 8 WHERE id = $1", dataset)
    await before.execute("DELETE FROM datasets WHERE name = 'deleted'")
    await legacy.add(before, name="added", **legacy.tokenized())
    await _up(database_settings)
    found = {row["name"]: row for row in await before.fetch("SELECT * FROM datasets")}
    assert set(found) == {"changed", "new-one", "added"}
    assert found["new-one"]["num_samples"] == 8
    tokens = "SELECT num_tokens FROM dataset_tokenizations WHERE dataset_id = $1"
    assert await before.fetchval(tokens, found["changed"]["id"]) == 5
    assert await before.fetchval(tokens, found["added"]["id"]) == 1234
    assert len(await before.fetch(tokens, dataset)) == 2


async def test_downgrade_without_retired_tables_recreates_rows(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    identifier = await legacy.add(before, name="My Corpus", **legacy.tokenized("org/Model"))
    await _up(database_settings)
    await before.execute("DROP SCHEMA retired CASCADE")
    await _down(database_settings, "0001")
    row = await before.fetchrow("SELECT * FROM datasets")
    assert row is not None
    assert (row["id"], row["name"], row["status"], row["num_tokens"]) == (identifier, "My Corpus", "ready", 1234)
    assert row["metadata"]["tokenization"] == {"tokenizer_name": "org/Model", "max_length": 128, "num_sequences": 10}


async def test_the_last_step_back_refuses_to_lose_rows(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    await legacy.add(before, name="kept")
    with pytest.raises(errors.FailedPrecondition, match=r"\b1\b"):
        await _down(database_settings, "base")
    assert await before.fetchval("SELECT count(*) FROM datasets") == 1
    await before.execute("DELETE FROM datasets")
    await _down(database_settings, "base")
    assert await before.fetchval("SELECT to_regclass('public.datasets')") is None
