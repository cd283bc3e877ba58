"""Whatever is killed in the middle of a tokenization, it ends READY, once, as a run without faults does (I2)."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from polytok.client import watch_stream
from tests.faults.scene import WORKERS, Scene, child_of
from tests.faults.watcher import Watcher
from tests.support import processes, servers

FIRST, SECOND = WORKERS
Rows = list[list[int]]


async def is_whole(scene: Scene, variant: str, calm: Rows, watcher: Watcher) -> dict[str, int]:
    """Waits for the end, which must be that of a run without faults; gives how the attempts on the way ended.

    Leases last a few seconds here: on a busy machine some may be lost that nobody took away.
    """
    made = await scene.wait(variant)
    await watcher.verify()
    assert scene.ids(made) == calm
    await scene.nothing_left_behind(made)
    dataset = await scene.client.datasets.get(scene.dataset)
    outcomes = await scene.outcomes(made)
    # Each shard once, and the publication.
    assert outcomes.pop("SUCCEEDED") == dataset.num_shards + 1
    assert watch_stream.state(dataset) == "READY"
    assert made.statistics.num_documents == dataset.num_samples
    assert "RUNNING" not in outcomes
    return outcomes


async def begin(
    scene: Scene, variant: str, *, running: int, succeeded: int = 0, workers: Sequence[str] = WORKERS[:1]
) -> tuple[Any, Watcher]:
    """Starts a tokenization; returns once so many of its tasks run, one in the hands of each of these workers."""
    record = await scene.create(variant)
    watcher = Watcher(scene.client.tokenizations.watch(record))
    for worker in workers:
        await scene.in_hand(worker, "tokenization")
    await scene.busy(record, running=running, succeeded=succeeded)
    return record, watcher


async def test_a_worker_is_killed(scene: Scene, calm: Rows) -> None:
    async with scene.held(FIRST):
        record, watcher = await begin(scene, "worker", running=1, succeeded=3)
        child = scene.child(FIRST)
        await scene.killed(FIRST)
        # It goes with its worker, though it was stopped.
        servers.await_condition(lambda: not processes.is_alive(child), "the worker's child has ended")
    assert set(await is_whole(scene, "worker", calm, watcher)) == {"LOST"}
    errors = await scene.complaints(record)
    assert all(error.startswith("WORKER_LOST: ") for error in errors)


async def test_a_child_is_killed(scene: Scene, calm: Rows) -> None:
    async with scene.held(FIRST):
        record, watcher = await begin(scene, "child", running=1, succeeded=3)
        worker = scene.pid(FIRST)
        os.kill(scene.child(FIRST), signal.SIGKILL)
    outcomes = await is_whole(scene, "child", calm, watcher)
    assert (outcomes["FAILED"], set(outcomes) - {"LOST"}) == (1, {"FAILED"})
    (error,) = [error for error in await scene.complaints(record) if "SIGKILL" in error]
    assert error.startswith("WORKER_LOST: ")
    assert scene.pid(FIRST) == worker
    assert child_of(worker)


async def test_both_workers_are_killed(scene: Scene, calm: Rows) -> None:
    async with scene.held(FIRST, SECOND):
        _, watcher = await begin(scene, "workers", running=2, workers=WORKERS)
        await asyncio.gather(scene.killed(FIRST), scene.killed(SECOND))
    outcomes = await is_whole(scene, "workers", calm, watcher)
    assert set(outcomes) == {"LOST"}
    assert outcomes["LOST"] >= 2


async def test_a_worker_that_was_cut_off_is_fenced(scene: Scene, calm: Rows) -> None:
    """Its worker stands still until the lease is another's; what it then says changes nothing (I3)."""
    worker = scene.pid(FIRST)
    async with scene.held(FIRST):
        record, watcher = await begin(scene, "fenced", running=1, succeeded=3)
        os.kill(worker, signal.SIGSTOP)
    try:
        assert set(await is_whole(scene, "fenced", calm, watcher)) == {"LOST"}
    finally:
        os.kill(worker, signal.SIGCONT)
    assert scene.pid(FIRST) == worker
    # It finds out, gives up, and takes the next task.
    async with scene.held(SECOND):
        other = await scene.create("after-fenced")
        await scene.busy(other, running=1, succeeded=3)
    await scene.nothing_left_behind(await scene.wait("after-fenced"))
    await scene.nothing_left_behind(await scene.client.tokenizations.get(record))


async def wipe_the_queue(scene: Scene) -> None:
    before = scene.pid("nats")
    os.kill(before, signal.SIGKILL)
    shutil.rmtree(scene.stack.home / "nats" / "jetstream")
    await scene.restarted("nats", before)


@pytest.mark.parametrize(
    "strike",
    [
        lambda scene: scene.killed("catalog"),
        lambda scene: scene.killed("postgres"),
        lambda scene: scene.killed("nats"),
        wipe_the_queue,
    ],
    ids=["catalog", "postgres", "nats", "nats-wiped"],
)
async def test_what_they_all_need_is_killed(
    scene: Scene, calm: Rows, strike: Callable[[Scene], Awaitable[None]], request: pytest.FixtureRequest
) -> None:
    variant = request.node.callspec.id
    # Two tasks in the workers' hands, and the rest waits on the queue.
    async with scene.held(*WORKERS):
        _, watcher = await begin(scene, variant, running=2, workers=WORKERS)
        await strike(scene)
    outcomes = await is_whole(scene, variant, calm, watcher)
    # An owner that was away for longer than a lease costs an attempt of each task that ran, and nothing else.
    assert set(outcomes) <= {"LOST"}
