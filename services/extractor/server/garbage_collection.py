"""What the extractor's storage holds that no record refers to."""

import datetime
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import manifests
from services.extractor.server import estimates, resource_names, tables
from services.extractor.server.repository import extractions
from services.extractor.server.settings import ExtractorSettings
from services.records import idempotency
from services.records.garbage_collection import GarbageCollectionPolicy

_CHUNK = 5000
_ENDED = ("ERROR", "CANCELLED")
_FINAL = manifests.NAMES | resource_names.SIDECARS

_table = tables.extractions
_files = tables.extraction_files


def create_policy(settings: ExtractorSettings) -> GarbageCollectionPolicy:
    """Return what is garbage, and which rows expire."""

    async def expire(conn: AsyncConnection) -> None:
        await idempotency.delete_expired(conn, tables.answers, datetime.timedelta(hours=settings.request_hours))
        await extractions.holds.forget(conn)
        await estimates.delete_expired(conn, datetime.timedelta(seconds=settings.estimate_seconds))

    return GarbageCollectionPolicy(resource_names.EXTRACTIONS_KEY, is_used, find_orphans, expire)


async def is_used(conn: AsyncConnection, key: str) -> bool:
    """Return whether a record uses a folder."""
    statement = sa.select(_table.c.id).where(_table.c.path == key, _table.c.status.not_in(_ENDED))
    return (await conn.execute(statement)).first() is not None


async def find_orphans(conn: AsyncConnection, listed: Iterable[str]) -> tuple[set[str], set[str]]:
    """Folder that nothing uses, and files in used folders that no record names."""
    rows = await conn.execute(sa.select(_table.c.path, _table.c.status))
    statuses: dict[str, str] = {row.path: row.status for row in rows}
    folders: set[str] = set()
    candidates: set[str] = set()
    for key in listed:
        folder, _, file = key.rpartition("/")
        # extractions/{uid}/{file}; everything else here is not ours.
        if folder.count("/") != 1 or resource_names.parse_uid(folder.rpartition("/")[2]) is None:
            continue
        status = statuses.get(folder, "ERROR")
        if status in _ENDED:
            folders.add(folder)
        elif status == "READY" and file not in _FINAL:
            candidates.add(key)
    return folders, candidates - await _published(conn, sorted(candidates))


async def _published(conn: AsyncConnection, keys: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(keys), _CHUNK):
        chunk = sa.literal(keys[start : start + _CHUNK], pg.ARRAY(sa.Text))
        found.update((await conn.execute(sa.select(_files.c.key).where(_files.c.key == sa.any_(chunk)))).scalars())
    return found
