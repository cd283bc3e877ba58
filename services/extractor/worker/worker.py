"""The worker process: `python -m services.extractor work`. It loads no model; its child does, with the first task."""

import sys

from pydantic import Field

from services.jobs import worker_main
from services.runtime.process import StopSignal
from services.runtime.settings import ADDRESS, TransportSettings

POOL = worker_main.WorkerPool(
    name="extractor-worker",
    kinds=("extract.plan", "extract.range", "extract.publish", "extract.estimate"),
    owner="extractor",
    child=(sys.executable, "-m", "services.extractor.worker.child"),
    lazy=True,
)


class ExtractorPeers(TransportSettings):
    """Where the extractor's server is."""

    extractor_address: str = Field(default=..., pattern=ADDRESS)
    """host:port of the extractor."""


async def run(stopping: StopSignal) -> None:
    """Work until it is asked to stop."""
    peers = ExtractorPeers()
    await worker_main.run_worker(stopping, POOL, peers.extractor_address, peers)
