"""What the catalog's storage holds that no record refers to, and which folders records use."""

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import manifests
from services.catalog.server import tables
from services.catalog.server.domain import names
from services.catalog.server.repository import holds, repairs
from services.catalog.server.settings import CatalogSettings
from services.records import idempotency
from services.records.garbage_collection import GarbageCollectionPolicy

_CHUNK = 5000
_ENDED = frozenset({"ERROR", "CANCELLED"})

_tokenizations = tables.dataset_tokenizations
_datasets = tables.datasets
_repairs = tables.tokenization_repairs


def create_policy(settings: CatalogSettings) -> GarbageCollectionPolicy:
    """Return what is garbage, and which rows expire."""

    async def expire(conn: AsyncConnection) -> None:
        await idempotency.delete_expired(conn, tables.answers, datetime.timedelta(hours=settings.request_hours))
        await holds.forget(conn)

    return GarbageCollectionPolicy(names.DATASETS_KEY, is_used, orphans, expire)


async def is_used(conn: AsyncConnection, key: str) -> bool:
    """Return whether a record uses a folder."""
    # A record that ended in ERROR or CANCELLED has no use for its files; one that is READY or being made has.
    used = [
        sa.select(sa.literal(1)).where(
            sa.or_(path == key, path.startswith(f"{key}/", autoescape=True)),
            status.not_in(("ERROR", "CANCELLED", "DONE")),
        )
        for path, status in (
            (_tokenizations.c.tokenized_path, _tokenizations.c.status),
            (_datasets.c.raw_path, _datasets.c.status),
            (_repairs.c.tokenized_path, _repairs.c.status),
        )
    ]
    return (await conn.execute(sa.union_all(*used).limit(1))).first() is not None


async def orphans(conn: AsyncConnection, listed: Iterable[str]) -> tuple[set[str], set[str]]:
    """Folder that nothing uses, and files in used folders that no manifest names."""
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
            candidates.update(key for key in keys if key.rpartition("/")[2] not in manifests.NAMES)
    return folders, candidates - await _published(conn, sorted(candidates))


def _by_folder(listed: Iterable[str]) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for key in listed:
        parts = key.split("/")
        # datasets/{uid}/{folder}/{file}; everything else here is not ours.
        if len(parts) == 4 and names.dataset_uid(parts[1]):
            found["/".join(parts[:3])].append(key)
    return found


async def _statuses(conn: AsyncConnection) -> dict[str, str]:
    """Return the status of the record of each folder; a dataset's own folder is there as well."""
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
    found: dict[str, str] = {}
    for folder, status in await conn.execute(of_tokenizations):
        # Of those that share a folder, all are READY; one that failed has no use for it any more.
        if found.get(folder, "ERROR") in _ENDED:
            found[folder] = status
    at_work = sa.select(_repairs.c.tokenized_path).where(_repairs.c.status.in_(repairs.LIVE))
    found.update(dict.fromkeys((await conn.execute(at_work)).scalars(), "PROCESSING"))
    for uid, folder, status in await conn.execute(sa.select(datasets.c.id, datasets.c.raw_path, of_dataset)):
        found[names.dataset_key(uid)] = found[folder] = status
        # Uploaded rows are needed until they are read in, by a retry too.
        found[names.upload_key(uid)] = "ERROR" if status == "READY" else "UNLISTED"
    return found


async def _published(conn: AsyncConnection, keys: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(keys), _CHUNK):
        chunk = sa.literal(keys[start : start + _CHUNK], pg.ARRAY(sa.Text))
        for table in (tables.dataset_shards, tables.tokenization_files):
            statement = sa.select(table.c.key).where(table.c.key == sa.any_(chunk))
            found.update((await conn.execute(statement)).scalars())
    return found
