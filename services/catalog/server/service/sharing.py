"""Tokenizations that wait for another's files, and what becomes of them when that is READY, has failed or is gone.

All state is in the database: a tokenization that waits is QUEUED without a job, and is resolved again whenever a record
changes. Any number of replicas may do this at once.
"""

import asyncio
import contextlib

from polytok import errors
from services.catalog.server.repository import sharing
from services.catalog.server.repository.tokenizations import tokenizations
from services.catalog.server.service.tokenizations import TokenizationService
from services.catalog.server.settings import SERVICE_NAME
from services.records.queries import Lock
from services.runtime.database import Database
from services.runtime.notifications import Listener
from services.runtime.telemetry import logging

_log = logging.get(__name__)

_POLL_SECONDS = 10.0
"""Notifications may be lost."""
_SPACING_SECONDS = 0.1


class SharedTokenizationResolver:
    """Starts or completes tokenizations that wait for shared files."""

    def __init__(self, database: Database, listener: Listener, creation: TokenizationService) -> None:
        self._database = database
        self._creation = creation
        self._changed = asyncio.Event()
        listener.subscribe(SERVICE_NAME, lambda _: self._changed.set())

    async def run(self) -> None:
        """Settle until it is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self.resolve_pending()
            except errors.PolytokError as error:
                _log.warning("settling put off", error=error.message)
            await asyncio.sleep(_SPACING_SECONDS)

    async def resolve_pending(self) -> None:
        """Look at each that waits, once."""
        async with self._database.connection() as conn:
            uids = await sharing.waiting(conn)
        for uid in uids:
            async with self._database.transaction() as conn:
                # A change is announced only where there is one, or every look would cause the next.
                record = await tokenizations.find_by_uid(conn, uid, Lock.CHANGE)
                if record is not None and record.status == "QUEUED" and record.job_id is None:
                    await self._creation.start_or_share(conn, record)
