"""The storage that the settings name."""

import platformdirs

from services.runtime.settings import StorageSettings
from services.runtime.storage.cache import Cache
from services.runtime.storage.root import Storage


def open_storage(settings: StorageSettings) -> Storage:
    """Open it, with a cache of its remote files unless that is given no room."""
    folder = settings.cache or str(platformdirs.user_cache_path("polytok") / "files")
    return Storage(settings.root, Cache(folder, settings.cache_bytes) if settings.cache_bytes else None)
