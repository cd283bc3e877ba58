"""What the version before leaves in its tables, and a look into tables as plain data."""

import json
import uuid
from typing import Any

import asyncpg

NAMES = ["My Corpus", "my corpus", "Корпус 日本語", "café ☕ naïve", "../../etc", "", "-._", "x" * 255, "m_0123abcd"]
METADATA: list[Any] = [
    None,
    {},
    [],
    "text",
    7,
    {"tokenization": None},
    {"tokenization": "gpt2"},
    {"tokenization": {"tokenizer_name": 5, "max_length": "many"}},
    {"tokenization": {"tokenizer_name": "  "}},
    {"tokenization": {"tokenizer_name": "gpt2", "max_length": 10**30, "num_sequences": -4}},
    {"tokenization": {"tokenizer_name": "Ünï/códe", "max_length": 512, "add_special_tokens": False}},
    {"download": {"split": "test", "config": "en", "revision": "main"}, "note": "kept", "ключ": True, "k" * 100: "v"},
    {"long": "v" * 5000, "nested": {"a": [1, {"b": None}]}, "pi": 3.5, **{f"key{n}": n for n in range(100)}},
]
STATUSES = ["downloading", "processing", "tokenizing", "ready", "error", "READY", "paused", ""]


async def connect(url: str, *, search_path: str = "") -> asyncpg.Connection:
    """Return a connection as old code has it, or with new code's search path."""
    connection = await asyncpg.connect(url, server_settings={"search_path": search_path} if search_path else {})
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    return connection


async def add(connection: asyncpg.Connection, **columns: Any) -> uuid.UUID:
    """Insert a dataset as old code does."""
    record = {"name": "corpus", "repo_id": "org/corpus", "status": "downloading", **columns}
    places = ", ".join(f"${place}" for place in range(1, len(record) + 1))
    identifier: uuid.UUID = await connection.fetchval(
        f"INSERT INTO datasets ({', '.join(record)}) VALUES ({places}) RETURNING id", *record.values()
    )
    return identifier


def tokenized(tokenizer: str | None = "gpt2", path: str = "/data/corpus_tokenized", **facts: Any) -> dict[str, Any]:
    """Return the columns of a dataset that is downloaded and tokenized."""
    section = {"max_length": 128, **facts} | ({"tokenizer_name": tokenizer} if tokenizer else {})
    return {
        "status": "ready",
        "progress": 100.0,
        "raw_path": "/data/corpus",
        "num_samples": 10,
        "size_bytes": 1000,
        "tokenized_path": path,
        "vocab_size": 50257,
        "num_tokens": 1234,
        "avg_seq_length": 123.4,
        "metadata": {"tokenization": section},
    }


async def fill(connection: asyncpg.Connection) -> int:
    """Return every status, name and metadata with and without a raw and a tokenized path; tells how many rows."""
    count = 0
    for status in STATUSES:
        for place, metadata in enumerate(METADATA):
            for raw_path, tokenized_path in ((None, None), ("/data/raw", None), ("/data/raw", "data/../tok\\en")):
                await add(
                    connection,
                    name=NAMES[(place + count) % len(NAMES)],
                    repo_id="org/corpus" if count % 2 else None,
                    status=status,
                    metadata=metadata,
                    raw_path=raw_path,
                    tokenized_path=tokenized_path,
                    num_tokens=99 if tokenized_path else None,
                    avg_seq_length=float("nan") if count % 7 == 0 else 1.5,
                    progress=[None, -1.0, 250.0, 55.5, float("inf")][count % 5],
                    num_samples=[None, 0, 12][count % 3],
                    error_message="it broke" if count % 2 else None,
                )
                count += 1
    await connection.execute(
        "INSERT INTO models (id, name, repo_id) VALUES ('m_00000001', 'GPT-2', 'gpt2'), ('odd id', 'GPT-2', 'org/x'), "
        "('m_00000003', 'nameless', NULL)"
    )
    return count


async def rows(connection: asyncpg.Connection, relation: str) -> list[dict[str, Any]]:
    """Return every row of a table, in an order of its own, as the database prints it."""
    found = await connection.fetch(f"SELECT to_jsonb(r) AS record FROM {relation} AS r ORDER BY to_jsonb(r)::text")
    return [row["record"] for row in found]
