"""The worker process: `python -m services.catalog ingest`."""

import sys

from services.catalog.ingest import task_kinds
from services.jobs import worker_main
from services.runtime.process import StopSignal
from services.runtime.settings import PeerSettings

POOL = worker_main.WorkerPool(
    name="ingest", kinds=task_kinds.ALL, owner="catalog", child=(sys.executable, "-m", "services.catalog.ingest.child")
)


async def run(stopping: StopSignal) -> None:
    """Work until asked to stop."""
    peers = PeerSettings()
    await worker_main.run_worker(stopping, POOL, peers.catalog_address, peers)
