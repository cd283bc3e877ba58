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
from tests.catalog import harness
from tests.support.messages import check_names


@pytest.fixture
async def catalog(
    database: Database,
    migrated_database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: Storage,
) -> AsyncIterator[harness.CatalogHarness]:
    async with harness.run_catalog(database, migrated_database_settings, messaging_settings, storage) as running:
        yield running


@contextlib.asynccontextmanager
async def worker(
    catalog: harness.CatalogHarness, messaging_settings: settings.MessagingSettings, storage: Storage
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


async def ended(catalog: harness.CatalogHarness, name: str) -> datasets_pb2.Dataset:
    """Return the dataset in its terminal state."""
    last = datasets_pb2.Dataset()
    async for response in catalog.datasets.WatchDataset(datasets_pb2.WatchDatasetRequest(name=f"datasets/{name}")):
        last = response.dataset
    return last


async def test_worker_ingests_or_reports_errors(
    catalog: harness.CatalogHarness,
    messaging_settings: settings.MessagingSettings,
    storage: Storage,
    source: pathlib.Path,
) -> None:
    for name in ("a", "b"):
        (source / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} {row}"}}\n' for row in range(300)))
    (source / "c.csv").write_text("a,b\n1\n")
    (source / "d.jsonl").write_text('{"body": "x"}\n')
    async with worker(catalog, messaging_settings, storage):
        await catalog.create_dataset("good", source=harness.file_source(f"{source}/a.jsonl", f"{source}/b.jsonl"))
        await catalog.create_dataset("ragged", source=harness.file_source(f"{source}/c.csv"))
        await catalog.create_dataset("unlike", source=harness.file_source(f"{source}/*.jsonl"))
        await catalog.create_dataset("absent", source=harness.file_source("/nowhere/a.jsonl"))
        good, ragged, unlike, absent = [await ended(catalog, name) for name in ("good", "ragged", "unlike", "absent")]
    assert (good.state, good.num_samples, good.progress) == (datasets_pb2.Dataset.STATE_READY, 600, 100)
    assert datasets.load_from_disk(good.raw_path)["text"][299:301] == ["a 299", "b 0"]
    error = datasets_pb2.Dataset.STATE_ERROR
    assert (ragged.state, ragged.error_reason) == (error, "SOURCE_INVALID")
    check_names(ragged.error_message, source / "c.csv", "row 2")
    assert (unlike.state, unlike.error_reason) == (error, "SOURCE_INVALID")
    check_names(unlike.error_message, source / "d.jsonl", "'text'", source / "a.jsonl")
    assert (absent.state, absent.error_reason) == (error, "SOURCE_NOT_FOUND")
