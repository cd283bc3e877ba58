"""Pools of workers, as the services define them."""

import pytest

from services.catalog.ingest import worker as ingest
from services.extractor.worker import worker as extractor
from services.jobs.worker_main import WorkerPool
from services.trainer.worker import worker as trainer


@pytest.mark.parametrize(
    ("pool", "service"),
    [(ingest.POOL, "ingest"), (extractor.POOL, "extractor-worker"), (trainer.POOL, "trainer-worker")],
)
def test_logs_distinguish_workers_from_owners(pool: WorkerPool, service: str) -> None:
    assert pool.service == service
    assert pool.service != pool.owner
