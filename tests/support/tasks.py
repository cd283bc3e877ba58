"""Ending what a test has running beside itself."""

import asyncio
from typing import Any

_AGAIN_SECONDS = 0.5


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for them; an error of one of them is the test's."""
    pending = set(tasks)
    while pending:
        for each in pending:
            each.cancel()
        # Once may not be enough: Python 3.11's `wait_for`, deep in a driver, loses a cancellation that meets its
        # answer.
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
    for each in tasks:
        if not each.cancelled() and (error := each.exception()) is not None:
            raise error
