"""The worker process: `python -m services.extractor work`. It loads no model; its child does, with the first task."""

import sys

from services.extractor.settings import ExtractorPeers
from services.runtime.jobs import pool
from services.runtime.process import Stopping

POOL = pool.Pool(
    name="extractor-worker",
    kinds=("extract.plan", "extract.range", "extract.publish", "extract.estimate"),
    owner="extractor",
    child=(sys.executable, "-m", "services.extractor.child"),
    lazy=True,
)


async def run(stopping: Stopping) -> None:
    """Works until it is asked to stop."""
    peers = ExtractorPeers()
    await pool.work(stopping, POOL, peers.extractor_address, peers)
