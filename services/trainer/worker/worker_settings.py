"""What can be set about the trainer's worker."""

import os
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from polytok import errors
from services.runtime.settings import Settings


class TrainerSettings(Settings):
    """How the worker's child uses its machine."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_TRAINER_")

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it trains; `auto` takes a GPU if there is one."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Processor threads of a process; 0 takes one a core that it may run on, fewer where several processes train.
    Results are equal for an equal number."""
    processes: int = Field(default=0, ge=0, le=64)
    """Most processes that one training may have here; 0 takes the number of GPUs or, without any, of cores. Never more
    than there are GPUs."""
    kept_checkpoints: int = Field(default=2, ge=1, le=100)
    """Checkpoints of a training that are kept while it runs."""

    @property
    def usable_threads(self) -> int:
        """How many threads compute, where one process does."""
        return self.threads or _cores()

    def threads_of(self, processes: int) -> int:
        """Return how many threads compute in each of several processes."""
        return self.threads or max(1, _cores() // processes)

    def check(self, processes: int, gpus: int | None) -> None:
        """Refuse more processes than there are devices; `gpus`: how many, None where the processor computes.

        Raises InvalidArgument, and FailedPrecondition without any GPU.
        """
        if gpus == 0:
            raise errors.FailedPrecondition(
                "POLYTOK_TRAINER_DEVICE is cuda, and this worker has no GPU that PyTorch can use. Run it on a "
                "machine that has one, or set the variable to auto.",
                reason="NOT_READY",
            )
        devices = _cores() if gpus is None else gpus
        most = self.processes or devices
        if gpus is not None:
            most = min(most, devices)
        if processes <= most:
            return
        what = f"{devices} {'processor core' if gpus is None else 'GPU'}{'' if devices == 1 else 's'}"
        limit = f", and POLYTOK_TRAINER_PROCESSES allows {self.processes}" if self.processes else ""
        description = (
            f"is {processes}; each needs a device of its own, and this worker has {what}{limit}. Create the training "
            f"with {most} at most, or run a worker on a machine that has more"
        )
        raise errors.InvalidArgument(
            f"parameters.processes {description}.",
            violations=[errors.FieldViolation("parameters.processes", f"{description}.")],
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0))
