"""A real extractor beside a real catalog, over the test's own database, NATS namespace and storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from services.runtime import settings
    from services.runtime import storage as storages
    from services.runtime.database import Database
    from tests.catalog import harness as catalog_harness
    from tests.extractor import harness


@pytest.fixture
async def catalog(
    database: Database,
    migrated_database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: storages.Storage,
) -> AsyncIterator[catalog_harness.CatalogHarness]:
    """Yield a catalog with a dataset and a model that are READY, and no tokenization."""
    from tests.catalog import harness as catalog_harness

    async with catalog_harness.run_catalog(
        database, migrated_database_settings, messaging_settings, storage
    ) as running:
        worker = catalog_harness.FakeWorker(running)
        await running.create_dataset("docs")
        await running.create_model("gpt2")
        await worker.ingest("docs")
        await worker.inspect("gpt2", context_length=64, commit="c" * 40)
        yield running


@pytest.fixture
async def extractor(
    catalog: catalog_harness.CatalogHarness,
    migrated_database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: storages.Storage,
) -> AsyncIterator[harness.ExtractorHarness]:
    """Yield an extractor that serves beside the catalog."""
    from services.extractor.server.migrations.schema import runner
    from tests.extractor import harness

    await asyncio.to_thread(runner.upgrade, migrated_database_settings)
    async with harness.run_extractor(catalog, migrated_database_settings, messaging_settings, storage) as running:
        yield running


@pytest.fixture
async def tokenized(catalog: catalog_harness.CatalogHarness) -> str:
    """Return the name of a READY tokenization."""
    from tests.catalog import harness as catalog_harness

    created = await catalog.tokenize("docs", "gpt2", max_length=32)
    await catalog_harness.FakeWorker(catalog).finish(created)
    return created.name
