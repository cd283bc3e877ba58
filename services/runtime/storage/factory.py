"""Open the storage that the settings name."""

import platformdirs

from services.runtime.settings import StorageSettings
from services.runtime.storage.cache import Cache
from services.runtime.storage.root import Storage


def open_storage(settings: StorageSettings) -> Storage:
    """Open the storage, with a cache for remote files unless its size is 0."""
    folder = settings.cache or str(platformdirs.user_cache_path("polytok") / "files")
    return Storage(settings.root, Cache(folder, settings.cache_bytes) if settings.cache_bytes else None)
