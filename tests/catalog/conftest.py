"""The real catalog over the test's own database, NATS namespace and storage, and a worker driven by hand."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from polytok.catalog.v1 import datasets_pb2
from tests.catalog import harness
from tests.catalog.task_runner import TaskRunner
from tests.client import samples

if TYPE_CHECKING:
    import pathlib

    from services.runtime import settings
    from services.runtime import storage as storages
    from services.runtime.database import Database


@pytest.fixture
async def catalog(
    database: Database,
    migrated_database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: storages.Storage,
) -> AsyncIterator[harness.CatalogHarness]:
    """Yield a catalog that serves, and its stubs."""
    async with harness.run_catalog(database, migrated_database_settings, messaging_settings, storage) as running:
        yield running


@pytest.fixture
def worker(catalog: harness.CatalogHarness) -> harness.FakeWorker:
    """Return a worker that does what a test tells it to."""
    return harness.FakeWorker(catalog)


@pytest.fixture
def runner(catalog: harness.CatalogHarness) -> TaskRunner:
    """Return a worker that does tasks as a real one does."""
    return TaskRunner(catalog)


@pytest.fixture
async def docs(catalog: harness.CatalogHarness, runner: TaskRunner, tmp_path: pathlib.Path) -> harness.CatalogHarness:
    """Return a dataset of several shards, and two models of one tokenizer."""
    texts = [f"{text} Number {number}." for number, text in enumerate(samples.TEXTS * 2)]
    source = samples.write_jsonl(tmp_path / "docs.jsonl", [*texts, *texts[:5]])
    created = await catalog.create_dataset("docs", source=harness.file_source(str(source)))
    await runner.run(created.job)
    folder = samples.write_model(tmp_path / "small")
    for name in ("small", "other"):
        path = folder if name == "small" else shutil.copytree(folder, tmp_path / name)
        await runner.run((await catalog.create_model(name, repo_id=str(path))).job)
    assert (await catalog.dataset("docs")).state == datasets_pb2.Dataset.STATE_READY
    return catalog
