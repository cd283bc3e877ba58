"""The worker process, `python -m services.trainer work`."""

import sys

from services.jobs import worker_main
from services.runtime.process import Stopping
from services.trainer.worker.settings import OwnerSettings, TrainerSettings

POOL = worker_main.Pool(
    name="trainer",
    kinds=("train.run",),
    owner="trainer",
    child=(sys.executable, "-m", "services.trainer.worker.child"),
    # Its libraries take seconds and hundreds of megabytes, and many stacks never train.
    lazy=True,
    gives_back=True,
)


async def main(stopping: Stopping) -> None:
    """Work until it is asked to stop."""
    peers = OwnerSettings()
    # The child's, read here too: what is wrong with it stops the service, not one child after another.
    TrainerSettings()
    await worker_main.work(stopping, POOL, peers.trainer_address, peers)
