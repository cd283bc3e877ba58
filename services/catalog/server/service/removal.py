"""Removing tokenizations: alone, or along with their dataset or model."""

import functools
from collections.abc import Sequence

from services.catalog.server.domain import records
from services.catalog.server.repository import holds
from services.catalog.server.repository.tokenizations import tokenizations as repository
from services.jobs.store import JobStore
from services.records import cancellation
from services.records.holds import resource_held_error
from services.records.storage_folders import StorageFolders
from services.records.unit_of_work import UnitOfWork


async def tokenizations(
    unit: UnitOfWork, store: JobStore, folders: StorageFolders, dependents: Sequence[records.Tokenization]
) -> None:
    """Stop and removes tokenizations, unless somebody reads one of them right now."""
    for dependent in dependents:
        uid = dependent.id
        locked = await cancellation.cancel_job_and_lock(
            unit.conn, store, functools.partial(repository.find_by_uid, unit.conn, uid)
        )
        # None: somebody else deleted it meanwhile.
        if locked is not None:
            await tokenization(unit, store, folders, locked)


async def tokenization(
    unit: UnitOfWork, store: JobStore, folders: StorageFolders, record: records.Tokenization
) -> None:
    """Remove a tokenization that is stopped and locked."""
    holders = await holds.holders(unit.conn, record.id)
    if holders:
        raise resource_held_error(record.resource, holders)
    await cancellation.delete_jobs(unit.conn, store, record.resource)
    await repository.delete(unit.conn, record.id)
    unit.after_commit.append(functools.partial(folders.delete_if_unused, record.tokenized_path))
