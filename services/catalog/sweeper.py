"""Removes files that no record refers to: what a late worker wrote, what a crash kept from being cleaned up.

A file is deleted once it has been seen without a record for the grace period; what a job at work writes is left alone.
"""

import asyncio
import datetime
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.catalog import requests, tables
from services.catalog.domain import names
from services.catalog.folders import Folders
from services.catalog.repositories import holds
from services.catalog.settings import CatalogSettings
from services.runtime.database import Database
from services.runtime.storage import Storage
from services.runtime.telemetry import logging

_log = logging.get(__name__)

_CHUNK = 5000
_ENDED = frozenset({"ERROR", "CANCELLED"})


class Sweeper:
    """Looks through the storage now and then. Several replicas may do so at once."""

    def __init__(self, database: Database, storage: Storage, folders: Folders, settings: CatalogSettings) -> None:
        self._database = database
        self._storage = storage
        self._folders = folders
        self._settings = settings
        self._seen: dict[str, float] = {}

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            try:
                await self.sweep()
            except errors.PolytokError as error:
                _log.warning("sweep put off", error=error.message)

    async def sweep(self) -> list[str]:
        """Deletes what has been an orphan for long enough, and tells which keys: of folders, and of single files."""
        listed = await asyncio.to_thread(self._storage.list, names.DATASETS_KEY)
        async with self._database.transaction() as conn:
            await requests.forget(conn, datetime.timedelta(hours=self._settings.request_hours))
            await holds.forget(conn)
        async with self._database.connection() as conn:
            folders, files = await _orphans(conn, listed)
        due = self._due({*folders, *files})
        swept = [key for key in sorted(folders) if key in due and await self._folders.reclaim(key)]
        for key in sorted(files & due):
            await asyncio.to_thread(self._storage.delete, key)
            swept.append(key)
        if swept:
            _log.info("swept", count=len(swept), keys=swept[:10])
        return swept

    def _due(self, orphans: Collection[str]) -> set[str]:
        now = time.monotonic()
        self._seen = {key: self._seen.get(key, now) for key in orphans}
        return {key for key, since in self._seen.items() if now - since >= self._settings.sweep_grace_seconds}


async def _orphans(conn: AsyncConnection, listed: Iterable[str]) -> tuple[set[str], set[str]]:
    """Folders that nothing uses, and files in used folders that no manifest names."""
    status = await _statuses(conn)
    folders: set[str] = set()
    candidates: set[str] = set()
    for folder, keys in _by_folder(listed).items():
        dataset = folder.rpartition("/")[0]
        if dataset not in status:
            folders.add(dataset)
        elif status.get(folder, "ERROR") in _ENDED:
            folders.add(folder)
        elif status[folder] == "READY":
            candidates.update(key for key in keys if key.rpartition("/")[2] not in names.MANIFESTS)
    return folders, candidates - await _published(conn, sorted(candidates))


def _by_folder(listed: Iterable[str]) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for key in listed:
        parts = key.split("/")
        # datasets/{uid}/{folder}/{file}; whatever else lies here is not ours.
        if len(parts) == 4 and names.dataset_uid(parts[1]):
            found["/".join(parts[:3])].append(key)
    return found


async def _statuses(conn: AsyncConnection) -> dict[str, str]:
    """The status of the record of each folder; a dataset's own folder is there as well."""
    datasets, tokenizations = tables.datasets, tables.dataset_tokenizations
    # What was taken over from the version before has no list of its files: none of them is an orphan.
    unlisted = sa.literal("UNLISTED")
    of_tokenization = sa.case(
        (sa.and_(tokenizations.c.status == "READY", tokenizations.c.manifest_digest == ""), unlisted),
        else_=tokenizations.c.status,
    )
    of_dataset = sa.case(
        (sa.and_(datasets.c.status == "READY", datasets.c.fingerprint == ""), unlisted), else_=datasets.c.status
    )
    of_tokenizations = sa.select(tokenizations.c.tokenized_path, of_tokenization.label("status"))
    found = {row.tokenized_path: row.status for row in await conn.execute(of_tokenizations)}
    for uid, folder, status in await conn.execute(sa.select(datasets.c.id, datasets.c.raw_path, of_dataset)):
        found[names.dataset_key(uid)] = found[folder] = status
    return found


async def _published(conn: AsyncConnection, keys: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(keys), _CHUNK):
        chunk = sa.literal(keys[start : start + _CHUNK], pg.ARRAY(sa.Text))
        for table in (tables.dataset_shards, tables.tokenization_files):
            statement = sa.select(table.c.key).where(table.c.key == sa.any_(chunk))
            found.update((await conn.execute(statement)).scalars())
    return found
