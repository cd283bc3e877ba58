"""The catalog's own configuration; what every service has is in `services.runtime.settings`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.runtime import settings


class CatalogSettings(settings.Settings):
    """How the catalog cuts datasets and keeps its house."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_CATALOG_")

    shard_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=2 * 1024**3)
    """Text in a raw shard, about; a shard is what one tokenizing task reads."""
    sweep_seconds: float = Field(default=300, gt=0)
    """How often files that no record refers to are looked for."""
    sweep_grace_seconds: float = Field(default=600, ge=0)
    """How long such a file must have been seen before it is deleted."""
    request_hours: float = Field(default=24, gt=0)
    """How long the answer to a request id is kept."""
