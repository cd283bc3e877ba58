"""What becomes of old records."""

import asyncio
import re
from typing import Any

import asyncpg
import pytest
from google.protobuf import json_format

from polytok.catalog.v1 import datasets_pb2, tokenizations_pb2
from services.catalog.server.domain import names
from services.catalog.server.migrations.schema import runner
from services.runtime import storage as storages
from services.runtime.settings import DatabaseSettings
from tests.migrations import legacy


async def _migrated(settings: DatabaseSettings, connection: asyncpg.Connection, **options: Any) -> list[dict[str, Any]]:
    await asyncio.to_thread(runner.upgrade, settings, **options)
    return await legacy.rows(connection, "datasets")


async def test_old_records_are_copied(
    database_settings: DatabaseSettings, before: asyncpg.Connection, storage: storages.Storage
) -> None:
    count = await legacy.fill(before)
    datasets = await _migrated(database_settings, before)
    assert len(datasets) == count
    for dataset in datasets:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", dataset["name"])
        assert ".." not in dataset["name"]
        assert names.dataset_uid(dataset["name"]) is None
        json_format.ParseDict(dataset["source"], datasets_pb2.DatasetSource())
        assert all(isinstance(value, str) for value in dataset["metadata"].values())
        assert len(dataset["metadata"]) <= 64
        assert dataset["metadata"]["display_name"] in legacy.NAMES
        storage.uri(dataset["raw_path"])
    for tokenization in await legacy.rows(before, "dataset_tokenizations"):
        storage.uri(tokenization["tokenized_path"])
        json_format.ParseDict(tokenization["parameters"], tokenizations_pb2.TokenizationParameters())
    for model in await legacy.rows(before, "models"):
        assert re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", model["name"])
        assert not names.is_model_uid(model["name"])


@pytest.mark.parametrize(
    ("columns", "dataset", "tokenization"),
    [
        ({"status": "downloading"}, "DOWNLOADING", None),
        ({"status": "processing", "raw_path": "/r"}, "PROCESSING", None),
        ({"status": "ready", "raw_path": "/r"}, "READY", None),
        ({"status": "tokenizing", "raw_path": "/r", "progress": 40.0}, "READY", "PROCESSING"),
        (legacy.tokenized(), "READY", "READY"),
        ({"status": "error", "error_message": "no network"}, "ERROR", None),
        (legacy.tokenized() | {"status": "error", "error_message": "bad token"}, "READY", "ERROR"),
        (legacy.tokenized() | {"status": "error", "tokenized_path": None}, "READY", "ERROR"),
        (legacy.tokenized() | {"status": "downloading"}, "DOWNLOADING", "READY"),
        (legacy.tokenized() | {"tokenized_path": None}, "READY", "ERROR"),
        ({"status": "paused"}, "ERROR", None),
    ],
)
async def test_the_shared_status_is_split(
    database_settings: DatabaseSettings,
    before: asyncpg.Connection,
    columns: dict[str, Any],
    dataset: str,
    tokenization: str | None,
) -> None:
    await legacy.add(before, **columns)
    await asyncio.to_thread(runner.upgrade, database_settings, "pre")
    (record,) = await legacy.rows(before, "rollout.datasets")
    tokenizations = await legacy.rows(before, "dataset_tokenizations")
    assert record["status"] == dataset
    assert [found["status"] for found in tokenizations] == ([tokenization] if tokenization else [])
    failed = [found for found in (record, *tokenizations) if found["status"] == "ERROR"]
    assert all(found["error_message"] for found in failed)


async def test_a_tokenization_keeps_its_facts(database_settings: DatabaseSettings, before: asyncpg.Connection) -> None:
    identifier = await legacy.add(before, name="My Corpus", **legacy.tokenized("org/Model"))
    (dataset,) = await _migrated(database_settings, before, storage_root="/data/")
    (tokenization,) = await legacy.rows(before, "dataset_tokenizations")
    (model,) = await legacy.rows(before, "models")
    assert (dataset["id"], dataset["name"], dataset["raw_path"]) == (str(identifier), "my-corpus", "corpus")
    assert dataset["metadata"] == {"display_name": "My Corpus"}
    assert tokenization["id"] == f"tok_{identifier}_{model['id']}"
    assert tokenization["tokenized_path"] == "corpus_tokenized"
    assert tokenization["parameters"] == {"max_length": 128, "truncation": "TRUNCATION_RIGHT"}
    facts = ("vocab_size", "num_tokens", "num_sequences", "avg_seq_length", "progress")
    assert [tokenization[fact] for fact in facts] == [50257, 1234, 10, 123.4, 100]
    assert (model["name"], model["repo_id"], model["status"]) == ("org-model", "org/Model", "ERROR")
    assert "Retry" in model["error_message"]


async def test_models_are_found_by_tokenizer_or_made(
    database_settings: DatabaseSettings, before: asyncpg.Connection
) -> None:
    await before.execute("INSERT INTO models (id, name, repo_id) VALUES ('m_00000001', 'GPT-2 small', 'gpt2')")
    for tokenizer in ("gpt2", "gpt2", "org/other", None):
        await legacy.add(before, name=str(tokenizer), **legacy.tokenized(tokenizer))
    await _migrated(database_settings, before)
    found = await before.fetch(
        "SELECT d.metadata ->> 'display_name', m.name FROM dataset_tokenizations AS t "
        "JOIN datasets AS d ON d.id = t.dataset_id JOIN models AS m ON m.id = t.model_id ORDER BY 1, 2"
    )
    assert [tuple(row) for row in found] == [
        ("None", "unknown-tokenizer"),
        ("gpt2", "gpt-2-small"),
        ("gpt2", "gpt-2-small"),
        ("org/other", "org-other"),
    ]


async def test_names_stay_apart(database_settings: DatabaseSettings, before: asyncpg.Connection) -> None:
    for name in ("My Corpus", "my corpus", "my-corpus", "café", "cafe", "☕", "日本語"):
        await legacy.add(before, name=name)
    found = [dataset["name"] for dataset in await _migrated(database_settings, before)]
    assert len(set(found)) == 7
    assert {"my-corpus", "cafe", "dataset"} <= set(found)


async def test_unfinished_work_ends_in_error(database_settings: DatabaseSettings, before: asyncpg.Connection) -> None:
    await legacy.add(before, name="a", status="downloading")
    await legacy.add(before, name="b", status="tokenizing", raw_path="/r")
    datasets = await _migrated(database_settings, before)
    (tokenization,) = await legacy.rows(before, "dataset_tokenizations")
    assert {dataset["name"]: dataset["status"] for dataset in datasets} == {"a": "ERROR", "b": "READY"}
    assert tokenization["status"] == "ERROR"
    assert "Retry" in tokenization["error_message"]


async def test_thousands_of_rows(database_settings: DatabaseSettings, before: asyncpg.Connection) -> None:
    await before.execute(
        """
        INSERT INTO datasets (name, repo_id, status, raw_path, tokenized_path, num_tokens, metadata)
        SELECT 'Corpus ' || n % 500, 'org/corpus', 'ready', '/data/' || n, '/data/' || n || '_tokenized', n,
               jsonb_build_object('tokenization', jsonb_build_object('tokenizer_name', 'model' || n % 20))
        FROM generate_series(1, 5000) AS n
        """
    )
    datasets = await _migrated(database_settings, before)
    assert len(datasets) == len({dataset["name"] for dataset in datasets}) == 5000
    assert await before.fetchval("SELECT sum(num_tokens) FROM dataset_tokenizations") == 5000 * 5001 // 2
    assert await before.fetchval("SELECT count(*) FROM models") == 20
