"""Whatever is killed in the middle of a tokenization, it ends READY, once, as a run without faults does (I2)."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from polytok.client import watch_stream
from tests.faults.stack_harness import WORKERS, StackHarness, child_of
from tests.faults.watcher import Watcher
from tests.support import processes, servers

FIRST, SECOND = WORKERS
Rows = list[list[int]]


async def is_whole(harness: StackHarness, variant: str, calm: Rows, watcher: Watcher) -> dict[str, int]:
    """Wait for the end, which must be that of a run without faults; return how the attempts on the way ended.

    Leases last a few seconds here: on a busy machine some may be lost that nobody took away.
    """
    made = await harness.wait(variant)
    await watcher.verify()
    assert harness.ids(made) == calm
    await harness.nothing_left_behind(made)
    dataset = await harness.client.datasets.get(harness.dataset)
    outcomes = await harness.outcomes(made)
    # Each shard once, and the publication.
    assert outcomes.pop("SUCCEEDED") == dataset.num_shards + 1
    assert watch_stream.state(dataset) == "READY"
    assert made.statistics.num_documents == dataset.num_samples
    assert "RUNNING" not in outcomes
    return outcomes


async def begin(
    harness: StackHarness, variant: str, *, running: int, succeeded: int = 0, workers: Sequence[str] = WORKERS[:1]
) -> tuple[Any, Watcher]:
    """Start a tokenization; return once that many of its tasks run, one in each of these workers."""
    record = await harness.create(variant)
    watcher = Watcher(harness.client.tokenizations.watch(record))
    for worker in workers:
        await harness.in_hand(worker, "tokenization")
    await harness.busy(record, running=running, succeeded=succeeded)
    return record, watcher


async def test_a_worker_is_killed(harness: StackHarness, calm: Rows) -> None:
    async with harness.held(FIRST):
        record, watcher = await begin(harness, "worker", running=1, succeeded=3)
        child = harness.child(FIRST)
        await harness.killed(FIRST)
        # It goes with its worker, though it was stopped.
        servers.await_condition(lambda: not processes.is_alive(child), "the worker's child has ended")
    assert set(await is_whole(harness, "worker", calm, watcher)) == {"LOST"}
    errors = await harness.complaints(record)
    assert all(error.startswith("WORKER_LOST: ") for error in errors)


async def test_a_child_is_killed(harness: StackHarness, calm: Rows) -> None:
    async with harness.held(FIRST):
        record, watcher = await begin(harness, "child", running=1, succeeded=3)
        worker = harness.pid(FIRST)
        os.kill(harness.child(FIRST), signal.SIGKILL)
    outcomes = await is_whole(harness, "child", calm, watcher)
    assert (outcomes["FAILED"], set(outcomes) - {"LOST"}) == (1, {"FAILED"})
    (error,) = [error for error in await harness.complaints(record) if "SIGKILL" in error]
    assert error.startswith("WORKER_LOST: ")
    assert harness.pid(FIRST) == worker
    assert child_of(worker)


async def test_both_workers_are_killed(harness: StackHarness, calm: Rows) -> None:
    async with harness.held(FIRST, SECOND):
        _, watcher = await begin(harness, "workers", running=2, workers=WORKERS)
        await asyncio.gather(harness.killed(FIRST), harness.killed(SECOND))
    outcomes = await is_whole(harness, "workers", calm, watcher)
    assert set(outcomes) == {"LOST"}
    assert outcomes["LOST"] >= 2


async def test_a_worker_that_was_cut_off_is_fenced(harness: StackHarness, calm: Rows) -> None:
    """Its worker stands still until the lease is another's; what it then says changes nothing (I3)."""
    worker = harness.pid(FIRST)
    async with harness.held(FIRST):
        record, watcher = await begin(harness, "fenced", running=1, succeeded=3)
        os.kill(worker, signal.SIGSTOP)
    try:
        assert set(await is_whole(harness, "fenced", calm, watcher)) == {"LOST"}
    finally:
        os.kill(worker, signal.SIGCONT)
    assert harness.pid(FIRST) == worker
    # It finds out, gives up, and takes the next task.
    async with harness.held(SECOND):
        other = await harness.create("after-fenced")
        await harness.busy(other, running=1, succeeded=3)
    await harness.nothing_left_behind(await harness.wait("after-fenced"))
    await harness.nothing_left_behind(await harness.client.tokenizations.get(record))


async def wipe_the_queue(harness: StackHarness) -> None:
    before = harness.pid("nats")
    os.kill(before, signal.SIGKILL)
    shutil.rmtree(harness.stack.home / "nats" / "jetstream")
    await harness.restarted("nats", before)


@pytest.mark.parametrize(
    "strike",
    [
        lambda harness: harness.killed("catalog"),
        lambda harness: harness.killed("postgres"),
        lambda harness: harness.killed("nats"),
        wipe_the_queue,
    ],
    ids=["catalog", "postgres", "nats", "nats-wiped"],
)
async def test_what_they_all_need_is_killed(
    harness: StackHarness, calm: Rows, strike: Callable[[StackHarness], Awaitable[None]], request: pytest.FixtureRequest
) -> None:
    variant = request.node.callspec.id
    # The workers have two tasks, and the rest waits on the queue.
    async with harness.held(*WORKERS):
        _, watcher = await begin(harness, variant, running=2, workers=WORKERS)
        await strike(harness)
    outcomes = await is_whole(harness, variant, calm, watcher)
    # An owner that was away for longer than a lease costs an attempt of each task that ran, and nothing else.
    assert set(outcomes) <= {"LOST"}
