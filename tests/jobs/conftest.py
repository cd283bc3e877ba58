"""Fixtures of the job library's tests: a database with a job store, and a service with server and queue."""

from collections.abc import AsyncIterator

import pytest

from services.runtime.settings import DatabaseSettings, JobSettings, MessagingSettings
from tests.jobs import job_harness


@pytest.fixture
def job_settings(request: pytest.FixtureRequest) -> JobSettings:
    """Short times; a test asks for others with `@pytest.mark.parametrize("job_settings", [{…}], indirect=True)`."""
    times = {"lease_ttl_seconds": 30, "reconcile_seconds": 0.2, "backoff_seconds": 0.05, "max_attempts": 3}
    return JobSettings(**{**times, **getattr(request, "param", {})})


@pytest.fixture
async def harness(
    database_settings: DatabaseSettings, job_settings: JobSettings
) -> AsyncIterator[job_harness.JobStoreHarness]:
    async with job_harness.open_store_harness(database_settings, job_settings) as harness:
        yield harness


@pytest.fixture
async def service(
    harness: job_harness.JobStoreHarness, database_settings: DatabaseSettings, messaging_settings: MessagingSettings
) -> AsyncIterator[job_harness.JobServiceHarness]:
    async with job_harness.JobServiceHarness(harness, database_settings, messaging_settings).open() as service:
        yield service
