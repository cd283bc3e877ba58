"""Files under one root: a local folder or anything that fsspec opens.

Keys name files: relative paths with `/`, such as `datasets/…/raw/part-00000.arrow`. A key cannot leave the root. A file
appears under its key complete or not at all. Every call blocks; event loops use asyncio.to_thread.
"""

from services.runtime.storage.factory import open_storage
from services.runtime.storage.local import Entry
from services.runtime.storage.root import Storage
from services.runtime.storage.staging import StagedFile

__all__ = ["Entry", "StagedFile", "Storage", "open_storage"]
