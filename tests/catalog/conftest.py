"""The real catalog over the test's own database, NATS namespace and storage, and a worker driven by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from tests.catalog import hands

if TYPE_CHECKING:
    from services.runtime import settings
    from services.runtime import storage as storages
    from services.runtime.database import Database


@pytest.fixture
async def catalog(
    database: Database,
    migrated_database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: storages.Storage,
) -> AsyncIterator[hands.Running]:
    """A catalog that serves, and its stubs."""
    async with hands.running(database, migrated_database_settings, messaging_settings, storage) as running:
        yield running


@pytest.fixture
def worker(catalog: hands.Running) -> hands.Worker:
    """A worker that does what a test tells it to."""
    return hands.Worker(catalog)
