"""A task that is cancelled while it waits in nats-py ends, though nats-py drops the cancellation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import nats.errors
import pytest

if TYPE_CHECKING:
    from tests.jobs.toys import House


@pytest.mark.parametrize("error", [None, nats.errors.ConnectionClosedError()])
async def test_the_reconciler_ends(house: House, monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    waiting = asyncio.Event()

    async def check() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if error:
                raise error from None

    reconciler = house.engine.reconciler
    monkeypatch.setattr(reconciler._queue, "check", check)
    running = asyncio.create_task(reconciler.run())
    await waiting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 30)
