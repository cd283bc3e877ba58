"""What can be set about the trainer's worker."""

import os
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.runtime.settings import ADDRESS, Settings, TransportSettings


class OwnerSettings(TransportSettings):
    """Where the trainer's server is."""

    trainer_address: str = Field(default=..., pattern=ADDRESS)
    """host:port of the trainer."""


class TrainerSettings(Settings):
    """How the worker's child uses its machine."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_TRAINER_")

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it trains; `auto` takes a GPU if there is one."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Processor threads; 0 takes one a core that the process may run on. Results are equal for an equal number."""
    kept_checkpoints: int = Field(default=2, ge=1, le=100)
    """Checkpoints of a training that are kept while it runs."""

    @property
    def usable_threads(self) -> int:
        """How many threads compute."""
        return self.threads or len(os.sched_getaffinity(0))
