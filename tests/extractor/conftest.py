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
    from tests.catalog import hands as catalog_hands
    from tests.extractor import hands


@pytest.fixture
async def catalog(
    database: Database,
    migrated_database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: storages.Storage,
) -> AsyncIterator[catalog_hands.Running]:
    """A catalog with a dataset and a model that are READY, and no tokenization."""
    from tests.catalog import hands as catalog_hands

    async with catalog_hands.running(database, migrated_database_settings, messaging_settings, storage) as running:
        worker = catalog_hands.Worker(running)
        await running.create_dataset("docs")
        await running.create_model("gpt2")
        await worker.ingest("docs")
        await worker.inspect("gpt2", context_length=64, commit="c" * 40)
        yield running


@pytest.fixture
async def extractor(
    catalog: catalog_hands.Running,
    migrated_database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: storages.Storage,
) -> AsyncIterator[hands.Running]:
    """An extractor that serves beside the catalog."""
    from services.extractor.server.migrations.schema import runner
    from tests.extractor import hands

    await asyncio.to_thread(runner.upgrade, migrated_database_settings)
    async with hands.running(catalog, migrated_database_settings, messaging_settings, storage) as running:
        yield running


@pytest.fixture
async def tokenized(catalog: catalog_hands.Running) -> str:
    """The name of a READY tokenization."""
    from tests.catalog import hands as catalog_hands

    created = await catalog.tokenize("docs", "gpt2", max_length=32)
    await catalog_hands.Worker(catalog).finish(created)
    return created.name
