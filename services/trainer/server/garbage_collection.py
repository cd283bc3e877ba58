"""What the trainer's storage holds that no record refers to, and which folders records use."""

import datetime
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.records import idempotency
from services.records.garbage_collection import GarbageCollectionPolicy
from services.trainer.server import resource_names, tables
from services.trainer.server.settings import TrainerServerSettings

_trainings = tables.trainings
_checkpoints = tables.checkpoints


def create_policy(settings: TrainerServerSettings) -> GarbageCollectionPolicy:
    """Return what is garbage, and which rows expire."""

    async def expire(conn: AsyncConnection) -> None:
        await idempotency.delete_expired(conn, tables.answers, datetime.timedelta(hours=settings.request_hours))

    return GarbageCollectionPolicy(resource_names.ROOT_KEY, is_used, find_orphans, expire)


async def find_orphans(conn: AsyncConnection, listed: Iterable[str]) -> tuple[set[str], set[str]]:
    """Folder of attempts that nothing uses; there are no single files."""
    known = set((await conn.execute(sa.select(_trainings.c.id))).scalars())
    used = await _used(conn)
    folders: set[str] = set()
    for key in listed:
        parts = key.split("/")
        uid = resource_names.parse_uid(parts[1]) if len(parts) > 3 else None
        if uid is None:
            continue  # everything else here is not ours
        if uid not in known:
            folders.add(resource_names.storage_key(uid))
            continue
        # trainings/{uid}/{attempt}/{checkpoints or saes}/…
        attempt, part = "/".join(parts[:3]), "/".join(parts[:4])
        if not _within(attempt, used):
            folders.add(attempt)
        elif not _within(part, used):
            folders.add(part)
    return folders, set()


async def is_used(conn: AsyncConnection, key: str) -> bool:
    """Return whether a record uses a folder, or one below it."""
    return _within(key, await _used(conn))


def _within(key: str, used: set[str]) -> bool:
    """Return whether a folder is one of those that are used, holds one, or lies in one."""
    return any(f"{each}/".startswith(f"{key}/") or f"{key}/".startswith(f"{each}/") for each in used)


async def _used(conn: AsyncConnection) -> set[str]:
    """Return the folders that trainings need: what is published, checkpoints, and that of the attempt at work."""
    published = sa.select(_trainings.c.result_key).where(_trainings.c.status == "READY")
    found = set((await conn.execute(published)).scalars())
    kept = sa.select(_checkpoints.c.key).join(_trainings, _trainings.c.id == _checkpoints.c.training_id)
    kept = kept.where(_trainings.c.status.not_in(("READY", "CANCELLED")))
    found.update((await conn.execute(kept)).scalars())
    tasks = tables.jobs.tasks
    at_work = sa.select(_trainings.c.id, tasks.c.id, tasks.c.epoch).join(tasks, tasks.c.job_id == _trainings.c.job_id)
    at_work = at_work.where(tasks.c.state == "RUNNING")
    found.update(
        f"{resource_names.storage_key(uid)}/{resource_names.attempt_folder(task, epoch)}"
        for uid, task, epoch in await conn.execute(at_work)
    )
    return found
