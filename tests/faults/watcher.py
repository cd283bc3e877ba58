"""Somebody who watches a tokenization all the while."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from polytok.client import watch_stream
from tests.faults.stack_harness import PATIENCE_SECONDS


class Watcher:
    """Watches a tokenization from its beginning, as somebody does who looks at its bar."""

    def __init__(self, versions: AsyncIterator[Any]) -> None:
        self.seen: list[Any] = []
        self._task = asyncio.create_task(self._watch(versions))

    async def _watch(self, versions: AsyncIterator[Any]) -> None:
        async for version in versions:
            self.seen.append(version)

    async def verify(self) -> None:
        """The bar never went back, and the record became READY once, at the end (I5)."""
        await asyncio.wait_for(self._task, PATIENCE_SECONDS)
        progress = [version.progress for version in self.seen]
        assert progress == sorted(progress)
        assert progress[-1] == 100
        states = [watch_stream.state(version) for version in self.seen]
        assert states.count("READY") == 1
        order = [state for place, state in enumerate(states) if state not in states[:place]]
        # A watch shows what is, not all that was: PROCESSING may pass unseen while the database is away.
        assert order == [state for state in ("QUEUED", "PROCESSING", "READY") if state in order]
        assert states == sorted(states, key=order.index)
