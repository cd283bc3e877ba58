"""The worker process: `python -m services.extractor work`. Only its task process loads a model, with the first task."""

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
    """Address of the extractor's server."""

    extractor_address: str = Field(default=..., pattern=ADDRESS)
    """host:port of the extractor."""


async def run(stopping: StopSignal) -> None:
    """Work until asked to stop."""
    peers = ExtractorPeers()
    await worker_main.run_worker(stopping, POOL, peers.extractor_address, peers)
