"""The worker process: `python -m services.extractor work`. It loads no model; its child does, with the first task."""

import sys

from services.extractor.settings import ExtractorPeers
from services.jobs import worker_main
from services.runtime.process import Stopping

POOL = worker_main.Pool(
    name="extractor-worker",
    kinds=("extract.plan", "extract.range", "extract.publish", "extract.estimate"),
    owner="extractor",
    child=(sys.executable, "-m", "services.extractor.child"),
    lazy=True,
)


async def run(stopping: Stopping) -> None:
    """Work until it is asked to stop."""
    peers = ExtractorPeers()
    await worker_main.work(stopping, POOL, peers.extractor_address, peers)
