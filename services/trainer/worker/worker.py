"""The worker process, `python -m services.trainer work`."""

import sys

from pydantic import Field

from services.jobs import worker_main
from services.runtime.process import StopSignal
from services.runtime.settings import ADDRESS, TransportSettings
from services.trainer.worker.worker_settings import TrainerSettings

POOL = worker_main.WorkerPool(
    name="trainer",
    kinds=("train.run",),
    owner="trainer",
    child=(sys.executable, "-m", "services.trainer.worker.child"),
    # Its libraries take seconds and hundreds of megabytes, and many stacks never train.
    lazy=True,
    pausable=True,
)


class TrainerPeers(TransportSettings):
    """Address of the trainer's server."""

    trainer_address: str = Field(default=..., pattern=ADDRESS)
    """host:port of the trainer."""


async def main(stopping: StopSignal) -> None:
    """Work until asked to stop."""
    peers = TrainerPeers()
    # Read by the task process, and here too: an invalid setting stops the service at once instead of failing one task
    # process after another.
    TrainerSettings()
    await worker_main.run_worker(stopping, POOL, peers.trainer_address, peers)
