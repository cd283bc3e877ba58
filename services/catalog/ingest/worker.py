"""The worker process: `python -m services.catalog ingest`."""

import sys

from services.catalog.ingest import kinds
from services.runtime.jobs import pool
from services.runtime.process import Stopping
from services.runtime.settings import PeerSettings

POOL = pool.Pool(
    name="ingest", kinds=kinds.ALL, owner="catalog", child=(sys.executable, "-m", "services.catalog.ingest.child")
)


async def run(stopping: Stopping) -> None:
    """Works until it is asked to stop."""
    peers = PeerSettings()
    await pool.work(stopping, POOL, peers.catalog_address, peers)
