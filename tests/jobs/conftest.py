"""Fixtures of the job library's tests: a shop (database and store), and a house (with engine, server and queue)."""

from collections.abc import AsyncIterator

import pytest

from services.runtime.settings import DatabaseSettings, JobSettings, MessagingSettings
from tests.jobs import toys


@pytest.fixture
def job_settings(request: pytest.FixtureRequest) -> JobSettings:
    """Short times; a test asks for others with `@pytest.mark.parametrize("job_settings", [{…}], indirect=True)`."""
    times = {"lease_ttl_seconds": 30, "reconcile_seconds": 0.2, "backoff_seconds": 0.05, "max_attempts": 3}
    return JobSettings(**{**times, **getattr(request, "param", {})})


@pytest.fixture
async def shop(database_settings: DatabaseSettings, job_settings: JobSettings) -> AsyncIterator[toys.Shop]:
    async with toys.shop(database_settings, job_settings) as shop:
        yield shop


@pytest.fixture
async def house(
    shop: toys.Shop, database_settings: DatabaseSettings, messaging_settings: MessagingSettings
) -> AsyncIterator[toys.House]:
    async with toys.House(shop, database_settings, messaging_settings).open() as house:
        yield house
