"""Folders in the storage that belong to a record: emptied only when no record, or none that uses them, is left.

What is deleted and made again may have the same folder. The transaction that creates the record or empties the folder
holds an advisory lock on it until the transaction ends, so that neither takes the other's files.
"""

import asyncio
from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.runtime.database import Database
from services.runtime.storage import Storage

_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")

IsUsed = Callable[[AsyncConnection, str], Awaitable[bool]]
"""Tells whether a record uses a folder, or one below it. One that ended in ERROR or CANCELLED has no use for it."""


async def lock(conn: AsyncConnection, key: str) -> None:
    """Keep others from taking, emptying or repairing a folder until the transaction ends."""
    await conn.execute(_LOCK, {"key": key})


class StorageFolders:
    """The folders of one service's records."""

    def __init__(self, database: Database, storage: Storage, is_used: IsUsed) -> None:
        self._database = database
        self._storage = storage
        self._is_used = is_used

    async def reserve(self, conn: AsyncConnection, key: str) -> None:
        """Take a folder for a job that begins, and empties it of what an earlier one left."""
        await lock(conn, key)
        await asyncio.to_thread(self._storage.delete_tree, key)

    async def delete_if_unused(self, key: str) -> bool:
        """Remove a folder unless a record uses it; return whether it did."""
        async with self._database.transaction() as conn:
            await lock(conn, key)
            if await self._is_used(conn, key):
                return False
            await asyncio.to_thread(self._storage.delete_tree, key)
            return True
