"""Restart NATS on an empty store when the services report for long enough that the work queue does not work.

The services test the queue all the time and recreate it themselves. What that does not fix is a problem of the server
or its files. Nothing in its store is needed: Postgres has every task, and waiting tasks are dispatched again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from polytok import disk_space
from services.embedded import services
from services.embedded.home import Home
from services.embedded.managed_process import ManagedProcess
from services.embedded.program import Service

LOOK_SECONDS = 5.0
PATIENCE_SECONDS = 20.0
"""How long the queue must have failed before a restart; doubles with each restart."""
_LAST_PATIENCE_SECONDS = 600.0


class QueueWatch:
    """Watches what the owners of tasks report about the work queue."""

    def __init__(self, home: Home, keepers: Sequence[ManagedProcess], report: Callable[[str], None]) -> None:
        self._home = home
        self._keepers = keepers
        self._report = report
        self._owners = {owner.name for owner in services.SERVERS}

    async def run(self) -> None:
        """Watch until cancelled."""
        patience, since, reported = PATIENCE_SECONDS, 0.0, ""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            trouble = await self._trouble()
            if not trouble:
                if reported:
                    self._report("the work queue works again")
                patience, since, reported = PATIENCE_SECONDS, 0.0, ""
                continue
            full = disk_space.scarce(self._home.nats)
            line = f"the work queue does not work: {full}" if full else trouble
            if line != reported:
                self._report(line)
            since, reported = since or time.monotonic(), line
            # On a full disk an empty store is no better than the present one.
            if not full and time.monotonic() - since >= patience:
                self._report("restarting nats on an empty store")
                await self._renew()
                patience, since = min(patience * 2, _LAST_PATIENCE_SECONDS), 0.0

    async def _trouble(self) -> str:
        for kept in tuple(self._keepers):
            if isinstance(kept.program, Service) and kept.program.name in self._owners:
                trouble = await asyncio.to_thread(kept.program.queue_trouble)
                if trouble:
                    return trouble
        return ""

    async def _renew(self) -> None:
        for kept in self._keepers:
            if kept.program.name == "nats":
                await kept.renew()
