"""The extractor's own configuration; what every service has is in `services.runtime.settings`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.records.garbage_collection import GarbageCollectionSettings

SERVICE_NAME = "extractor"
"""The name under which workers know this service's LeaseService, and the Postgres channel of changes."""


class ExtractorSettings(GarbageCollectionSettings):
    """How extractions are cut, and how the extractor keeps its house."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_EXTRACTOR_")

    range_bytes: int = Field(default=256 * 1024 * 1024, ge=1024, le=64 * 1024**3)
    """Activations that one task writes, about: what is lost when a worker dies."""
    renew_seconds: float = Field(default=60, gt=0, le=300)
    """How often the tokenizations that are read are renewed; a hold lasts ten minutes."""
    hooks_seconds: float = Field(default=20, ge=0, le=50)
    """How long a create call waits at most for what its model is made of, to check hooks by: it is asked of a process
    that loads torch, and remembered. 0 leaves the check to the first task."""
    estimate_seconds: float = Field(default=300, gt=0, le=3600)
    """How long an estimate may take, the wait for a free worker included."""
