"""The catalog's own configuration; what every service has is in `services.runtime.settings`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.records.garbage_collection import GarbageCollectionSettings

SERVICE_NAME = "catalog"
"""The name under which workers know this service's LeaseService, and the Postgres channel of changes."""


class CatalogSettings(GarbageCollectionSettings):
    """How the catalog cuts datasets and collects garbage."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_CATALOG_")

    shard_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=2 * 1024**3)
    """Text in a raw shard, about; a shard is what one tokenizing task reads."""
    check_paths: bool = False
    """Whether the workers read the files of this machine: a source path that does not exist is then refused at once."""
    upload_bytes: int = Field(default=16 * 1024**3, ge=1024)
    """The most that rows of one upload may take, as Arrow has them."""
