"""Settings of the trainer's worker."""

import os
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from polytok import errors
from services.runtime.settings import Settings


class TrainerSettings(Settings):
    """How the worker's task process uses the machine."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_TRAINER_")

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; `auto` takes a GPU if there is one."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Processor threads of a process; 0 uses one for each available core, fewer where several processes train. Equal
    numbers of threads give equal results.
    """
    processes: int = Field(default=0, ge=0, le=64)
    """Maximum number of processes that one training may use here; 0 means the number of GPUs or, without a GPU, of
    cores. Never more than the number of GPUs.
    """
    kept_checkpoints: int = Field(default=2, ge=1, le=100)
    """Number of checkpoints of a training that are kept while it runs."""

    @property
    def usable_threads(self) -> int:
        """Return the number of compute threads of a single process."""
        return self.threads or _cores()

    def threads_of(self, processes: int) -> int:
        """Return the number of compute threads of each of several processes."""
        return self.threads or max(1, _cores() // processes)

    def check(self, processes: int, gpus: int | None) -> None:
        """Raise if more processes are requested than there are devices; `gpus` is their number, None on a processor.

        Raises InvalidArgument, and FailedPrecondition without any GPU.
        """
        if gpus == 0:
            raise errors.FailedPrecondition(
                "POLYTOK_TRAINER_DEVICE is cuda, but PyTorch finds no usable GPU on this worker. Run the "
                "worker on a machine with a GPU, or set the variable to auto.",
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
            f"is {processes}; each process needs its own device, and this worker has {what}{limit}. Create "
            f"the training with at most {most}, or run a worker on a machine with more"
        )
        raise errors.InvalidArgument(
            f"parameters.processes {description}.",
            violations=[errors.FieldViolation("parameters.processes", f"{description}.")],
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0))
