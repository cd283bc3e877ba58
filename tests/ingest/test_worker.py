"""The worker as it runs: its own process and child, a real catalog, a real queue."""

import asyncio
import contextlib
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator

import datasets
import pytest

from polytok.catalog.v1 import datasets_pb2
from services.runtime import settings
from services.runtime.database import Database
from services.runtime.storage import Storage
from tests.catalog import hands


@pytest.fixture
async def catalog(
    database: Database,
    migrated_database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: Storage,
) -> AsyncIterator[hands.Running]:
    async with hands.running(database, migrated_database_settings, messaging_settings, storage) as running:
        yield running


@contextlib.asynccontextmanager
async def worker(
    catalog: hands.Running, messaging_settings: settings.MessagingSettings, storage: Storage
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.catalog", "ingest"),
        env={
            **os.environ,
            "POLYTOK_NATS_URL": messaging_settings.url,
            "POLYTOK_NATS_NAMESPACE": messaging_settings.namespace,
            "POLYTOK_CATALOG_ADDRESS": catalog.address,
            "POLYTOK_STORAGE_ROOT": storage.uri("x").removesuffix("/x"),
        },
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await process.wait()
    assert process.returncode == 0


async def ended(catalog: hands.Running, name: str) -> datasets_pb2.Dataset:
    """The dataset in its terminal state."""
    last = datasets_pb2.Dataset()
    async for response in catalog.datasets.WatchDataset(datasets_pb2.WatchDatasetRequest(name=f"datasets/{name}")):
        last = response.dataset
    return last


async def test_datasets_are_read_in_or_tell_why_not(
    catalog: hands.Running,
    messaging_settings: settings.MessagingSettings,
    storage: Storage,
    source: pathlib.Path,
) -> None:
    for name in ("a", "b"):
        (source / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} {row}"}}\n' for row in range(300)))
    (source / "c.csv").write_text("a,b\n1\n")
    (source / "d.jsonl").write_text('{"body": "x"}\n')
    async with worker(catalog, messaging_settings, storage):
        await catalog.create_dataset("good", source=hands.file_source(f"{source}/a.jsonl", f"{source}/b.jsonl"))
        await catalog.create_dataset("ragged", source=hands.file_source(f"{source}/c.csv"))
        await catalog.create_dataset("unlike", source=hands.file_source(f"{source}/*.jsonl"))
        await catalog.create_dataset("absent", source=hands.file_source("/nowhere/a.jsonl"))
        good, ragged, unlike, absent = [await ended(catalog, name) for name in ("good", "ragged", "unlike", "absent")]
    assert (good.state, good.num_samples, good.progress) == (datasets_pb2.Dataset.STATE_READY, 600, 100)
    assert datasets.load_from_disk(good.raw_path)["text"][299:301] == ["a 299", "b 0"]
    error = datasets_pb2.Dataset.STATE_ERROR
    assert (ragged.state, ragged.error_reason) == (error, "SOURCE_INVALID")
    assert ragged.error_message == (
        f"{source}/c.csv, row 2 (the header is row 1): 1 cells, and the header has 2."
        " Mend the row, and quote cells that hold commas or line ends."
    )
    assert (unlike.state, unlike.error_message) == (
        error,
        f"{source}/d.jsonl has no column 'text', which {source}/a.jsonl has."
        " Give all files the same columns, or register them as separate datasets.",
    )
    assert (absent.state, absent.error_reason) == (error, "SOURCE_NOT_FOUND")
