"""A task that is cancelled while it waits in nats-py ends, though nats-py drops the cancellation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import nats.errors
import pytest

from polytok import errors

if TYPE_CHECKING:
    from tests.jobs.job_harness import JobServiceHarness


@pytest.mark.parametrize("error", [None, nats.errors.ConnectionClosedError()])
async def test_the_reconciler_ends(
    service: JobServiceHarness, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    waiting = asyncio.Event()

    async def reconcile() -> None:
        if asyncio.current_task() is not running:
            # The service's own task.
            return
        if waiting.is_set():
            await asyncio.Event().wait()
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # As nats-py does, which may raise an error of its own.
            if error:
                raise errors.Unavailable("NATS is closed.") from error

    reconciler = service.background.reconciler
    monkeypatch.setattr(reconciler, "reconcile", reconcile)
    running = asyncio.create_task(reconciler.run())
    await waiting.wait()
    running.cancel()
    ended, _ = await asyncio.wait({running}, timeout=20)
    running.cancel()
    assert ended
