"""Removing tokenizations: alone, or along with their dataset or model."""

import functools
from collections.abc import Sequence

from services.catalog.server import events
from services.catalog.server.domain import records
from services.catalog.server.repository import holds
from services.catalog.server.repository import tokenizations as repository
from services.jobs.store import JobStore
from services.records import cancellation
from services.records.holds import refused
from services.records.storage_folders import Folders
from services.records.unit_of_work import Unit


async def tokenizations(
    unit: Unit, store: JobStore, folders: Folders, dependents: Sequence[records.Tokenization]
) -> None:
    """Stop and removes tokenizations, unless somebody reads one of them right now."""
    for dependent in dependents:
        uid = dependent.id
        locked = await cancellation.stopped(unit.conn, store, functools.partial(repository.by_id, unit.conn, uid))
        # None: somebody else deleted it meanwhile.
        if locked is not None:
            await tokenization(unit, store, folders, locked)


async def tokenization(unit: Unit, store: JobStore, folders: Folders, record: records.Tokenization) -> None:
    """Remove a tokenization that is stopped and locked."""
    holders = await holds.holders(unit.conn, record.id)
    if holders:
        raise refused(record.resource, holders)
    await cancellation.drop_jobs(unit.conn, store, record.resource)
    await repository.delete(unit.conn, record.id)
    await events.tell(unit.conn, record.id)
    unit.after_commit.append(functools.partial(folders.reclaim, record.tokenized_path))
