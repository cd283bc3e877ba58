"""Removes files that no record refers to: what a late worker wrote, what a crash kept from being cleaned up.

A file is deleted once it has been seen without a record for the grace period; what a job at work writes is left alone,
and so is a folder without a record while files are added to it. What cannot be deleted is skipped.
"""

import asyncio
import bisect
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.records.storage_folders import IsUsed, StorageFolders
from services.runtime.database import Database
from services.runtime.settings import Settings
from services.runtime.storage import Storage, keys
from services.runtime.telemetry import logging

_log = logging.get(__name__)
_LOGGED_KEYS = 10


Orphans = Callable[[AsyncConnection, Iterable[str]], Awaitable[tuple[set[str], set[str]]]]
"""Of the keys listed: folders that nothing uses, and files in used folders that no manifest names."""
Expire = Callable[[AsyncConnection], Awaitable[None]]
"""Drops the rows whose time is over."""


class GarbageCollectionSettings(Settings):
    """How a service collects garbage; its own settings extend this, with its prefix."""

    garbage_collection_seconds: float = Field(default=300, gt=0)
    """How often files that no record refers to are looked for."""
    garbage_grace_seconds: float = Field(default=600, ge=0)
    """How long such a file must have been seen before it is deleted."""
    request_hours: float = Field(default=24, gt=0)
    """How long the answer to a request id is kept."""


@dataclass(frozen=True)
class GarbageCollectionPolicy:
    """What a service collects."""

    root_key: str
    """Storage key of the folder that holds the folders of its records."""
    is_used: IsUsed
    orphans: Orphans
    expire: Expire


class GarbageCollector:
    """Looks through the storage now and then. Several replicas may do so at once."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        folders: StorageFolders,
        policy: GarbageCollectionPolicy,
        settings: GarbageCollectionSettings,
    ) -> None:
        self._database = database
        self._storage = storage
        self._folders = folders
        self._policy = policy
        self._settings = settings
        self._seen: dict[str, tuple[int, float]] = {}
        """What lay below each orphan, and since when it has been so."""
        self._reported: set[str] = set()
        """Orphans that could not be deleted and were logged."""

    async def run(self) -> None:
        """Collect garbage until it is cancelled."""
        while True:
            await asyncio.sleep(self._settings.garbage_collection_seconds)
            try:
                await self.collect()
            except errors.PolytokError as error:
                _log.warning("garbage collection postponed", error=error.message)

    async def collect(self) -> list[str]:
        """Delete what has been an orphan for long enough, and return which keys: of folders, and of single files."""
        found = await asyncio.to_thread(self._storage.list, self._policy.root_key)
        # The database takes no name that is not UTF-8. Escaped, it has a backslash, which no key of ours has.
        listed = sorted(key.encode("utf-8", "backslashreplace").decode() for key in found)
        async with self._database.transaction() as conn:
            await self._policy.expire(conn)
        async with self._database.connection() as conn:
            folders, files = await self._policy.orphans(conn, listed)
        due = self._due({*folders, *files}, listed)
        swept = []
        failed: dict[str, str] = {}
        for key in (*sorted(folders & due), *sorted(files & due)):
            try:
                if await self._delete(key, is_folder=key in folders):
                    swept.append(key)
            except errors.PolytokError as error:
                failed[key] = error.message
        if swept:
            _log.info("swept", count=len(swept), keys=swept[:_LOGGED_KEYS])
        self._report(failed)
        return swept

    async def _delete(self, key: str, *, is_folder: bool) -> bool:
        keys.check(key)
        if is_folder:
            return await self._folders.delete_if_unused(key)
        await asyncio.to_thread(self._storage.delete, key)
        return True

    def _report(self, failed: Mapping[str, str]) -> None:
        unreported = [key for key in failed if key not in self._reported]
        if unreported:
            _log.warning(
                "garbage not deleted; delete it by hand if it stays",
                count=len(unreported),
                keys=unreported[:_LOGGED_KEYS],
                error=failed[unreported[0]],
            )
        self._reported = set(failed)

    def _due(self, orphans: Collection[str], listed: Sequence[str]) -> set[str]:
        now = time.monotonic()
        seen = {}
        for key in orphans:
            # A folder that grows is at work, though no record refers to it yet. ("0" comes after "/".)
            below = hash(tuple(listed[bisect.bisect_left(listed, f"{key}/") : bisect.bisect_left(listed, f"{key}0")]))
            before = self._seen.get(key)
            seen[key] = before if before and before[0] == below else (below, now)
        self._seen = seen
        return {key for key, (_, since) in seen.items() if now - since >= self._settings.garbage_grace_seconds}
