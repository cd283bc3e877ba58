"""Trainings in processes of their own, that a test kills. They are forked from one that has imported everything."""

import multiprocessing
import multiprocessing.connection
import os
import pathlib
import random
from collections.abc import Callable
from typing import Any

from torch.distributed import TCPStore

from services.trainer.sae import architectures, configs, train
from services.trainer.sae.data.dataset import ActivationDataset

architectures.import_sae_lens()

Arguments = tuple[Callable[[str], ActivationDataset], configs.TrainingPlan, pathlib.Path]


def _attempt(arguments: Arguments, reported: multiprocessing.connection.Connection) -> None:
    open_data, planned, folder = arguments
    result = train.train(planned, folder, open_data=open_data, on_rows=lambda rows: reported.send(rows[0].step))
    reported.send("finished" if result.finished else "stopped")


def context() -> Any:
    """Return the context of processes that start without importing again."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.trainer.attempts"])
    return found


def run(arguments: Arguments, killed_after: int | None, draw: random.Random) -> bool:
    """Train until the end, or kill the process some time after it reported that many rows; return whether it ended."""
    processes = context()
    receiving, sending = processes.Pipe(duplex=False)
    process = processes.Process(target=_attempt, args=(arguments, sending))
    process.start()
    sending.close()
    try:
        for _ in range(10_000 if killed_after is None else killed_after):
            if receiving.recv() == "finished":
                process.join()
                return bool(process.exitcode == 0)
        # Anywhere in a step, or while a checkpoint is written.
        process.join(draw.random() * 0.02)
        process.kill()
    except EOFError:
        pass
    finally:
        process.join()
        receiving.close()
    return False


def until_the_end(arguments: Arguments, kills: int, seed: int) -> int:
    """Train with some kills at random moments in between; return how many there were."""
    draw = random.Random(seed)
    for number in range(kills):
        if run(arguments, draw.randint(1, 30), draw):
            return number
    assert run(arguments, None, draw), "the training failed"
    return kills


def _together(arguments: Arguments, rank: int, size: int, port: int) -> None:
    # What torchrun tells its processes: who they are, and that it runs the store that they meet at.
    reported = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_RESTART_COUNT": 0,
    }
    os.environ.update({name: str(value) for name, value in reported.items()})
    open_data, planned, folder = arguments
    assert train.train(planned, folder, open_data=open_data).finished


def run_together(arguments: Arguments, size: int) -> list[bool]:
    """Train with several processes; return of each whether it ended well."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = [context().Process(target=_together, args=(arguments, rank, size, store.port)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode == 0 for process in processes]
