"""Folders in the storage that belong to a record: emptied only when no record, or none that uses them, is left.

A tokenization that is deleted and made again has the same folder. Whoever makes the record or empties the folder
holds an advisory lock on it until the transaction ends, so that neither takes the other's files.
"""

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.catalog import tables
from services.runtime.database import Database
from services.runtime.storage import Storage

_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")
_tokenizations = tables.dataset_tokenizations
_datasets = tables.datasets


class Folders:
    """The folders of datasets and tokenizations."""

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage

    async def claim(self, conn: AsyncConnection, key: str) -> None:
        """Takes a folder for a job that begins, and empties it of what an earlier one left."""
        await conn.execute(_LOCK, {"key": key})
        await asyncio.to_thread(self._storage.delete_tree, key)

    async def reclaim(self, key: str) -> bool:
        """Removes a folder unless a record uses it; tells whether it did."""
        async with self._database.transaction() as conn:
            await conn.execute(_LOCK, {"key": key})
            if await _is_used(conn, key):
                return False
            await asyncio.to_thread(self._storage.delete_tree, key)
            return True


async def _is_used(conn: AsyncConnection, key: str) -> bool:
    # A record that ended in ERROR or CANCELLED has no use for its files; one that is READY or being made has.
    used = [
        sa.select(sa.literal(1)).where(
            sa.or_(path == key, path.startswith(f"{key}/", autoescape=True)), status.not_in(("ERROR", "CANCELLED"))
        )
        for path, status in (
            (_tokenizations.c.tokenized_path, _tokenizations.c.status),
            (_datasets.c.raw_path, _datasets.c.status),
        )
    ]
    return (await conn.execute(sa.union_all(*used).limit(1))).first() is not None
