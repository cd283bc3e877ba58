"""How a repair comes to be, and how it is ended."""

import secrets

from sqlalchemy.ext.asyncio import AsyncConnection

from polytok import errors
from services.catalog.server.domain import names, records, states
from services.catalog.server.jobs import repairs as handler
from services.catalog.server.repository import repairs
from services.catalog.server.repository.datasets import datasets
from services.catalog.server.repository.tokenizations import tokenizations
from services.jobs.store import JobStore
from services.records import storage_folders
from services.records.queries import Lock


async def start_repair(
    conn: AsyncConnection, store: JobStore, name: names.TokenizationName, *, checksums_only: bool
) -> records.Tokenization:
    """Start to repair a READY tokenization's files, unless that is under way; return the tokenization."""
    record = await tokenizations.get(conn, name, Lock.CHANGE)
    states.TOKENIZATION.require_ready(record.resource, record.short, record.status, record.error_message)
    if not record.manifest_digest:
        raise errors.FailedPrecondition(
            f"{record.resource} was taken over from an earlier version, without checksums: what was written is not on "
            "record. Delete it and tokenize again to have them.",
            reason="WRONG_STATE",
        )
    # Another that shares the files may be repaired at the same moment.
    await storage_folders.lock(conn, record.tokenized_path)
    under_way = await repairs.find_by_folder(conn, record.tokenized_path)
    if under_way is not None and states.REPAIR.is_live(under_way.status):
        if under_way.outcome.get("checksums_only") and not checksums_only:
            raise errors.FailedPrecondition(
                f"A repair of {record.resource} is under way that compares checksums only. Wait until it ends, or stop "
                f"it with `polytok tokenization cancel {record.short}`, then repair again.",
                reason="WRONG_STATE",
            )
        return record
    dataset = await datasets.get(conn, str(record.dataset_id), Lock.REFERENCE)
    path = names.tokenized_key(dataset.raw_path, record.model_id, record.variant) + f"_{secrets.token_hex(4)}"
    files = await tokenizations.files(conn, record.id)
    tasks = handler.first_tasks(record, files, checksums_only=checksums_only)
    job_id = await store.create(conn, handler.KIND, record.resource, tasks)
    await repairs.begin(conn, record.id, path, job_id, {"checksums_only": True} if checksums_only else {})
    return record


async def cancel_repair(
    conn: AsyncConnection, store: JobStore, record: records.Tokenization | None, *, own: bool
) -> bool:
    """Cancel the repair of a tokenization's files, if one is under way; return whether one was.

    With `own`, only if it was asked for this one. Called before the record is locked: the job comes first.
    """
    repair = await repairs.find_by_folder(conn, record.tokenized_path) if record and record.status == "READY" else None
    if repair is None or record is None or repair.job_id is None or not states.REPAIR.is_live(repair.status):
        return False
    if own and repair.tokenization_id != record.id:
        return False
    return await store.cancel(conn, repair.job_id)
