"""The trainer's own configuration; what every service has is in `services.runtime.settings`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.records.garbage_collection import GarbageCollectionSettings
from services.runtime.settings import ADDRESS, PeerSettings

SERVICE_NAME = "trainer"
"""The name under which workers know this service's LeaseService, and the Postgres channel of changes."""


class TrainerPeers(PeerSettings):
    """Where the services are that the trainer asks."""

    extractor_address: str = Field(default="", pattern=f"^$|{ADDRESS}")
    """host:port of the extractor; without one, trainings run on models alone."""


class TrainerServerSettings(GarbageCollectionSettings):
    """How the trainer's server keeps its house."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_TRAINER_")

    hooks_seconds: float = Field(default=20, ge=0, le=50)
    """How long a create call waits at most for what its model is made of, to check hooks by: it is asked of a process
    that loads torch, and remembered. 0 leaves the check to the worker."""
