"""Trainings that are paused, cancelled, deleted, killed: they end once, and as an undisturbed one does."""

import contextlib
import os
import pathlib
import signal
from typing import Any

import pytest
from safetensors.torch import load_file

from polytok import errors
from polytok.client import watch_stream
from polytok.trainer.v1 import tasks_pb2
from tests.support import messages, processes, servers
from tests.trainings import samples
from tests.trainings.training_harness import WORKER, TrainingHarness, eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

STEPS = 4000
LONG = {"total_samples": 64 * STEPS, "checkpoint_every": 100}
"""Seconds of work, also on a fast machine: a test has time to disturb it."""
LIVE = ["QUEUED", "PROCESSING"]
ENDLESS = {"total_samples": 64 * 1_000_000, "checkpoint_every": 100, "log_every": 10}


@pytest.fixture
def harness(harness: TrainingHarness) -> TrainingHarness:
    """With patience: thousands of steps, each reported, are slow on a machine that does much else."""
    harness.patience_seconds = 400.0
    return harness


def weights(record: Any) -> dict[str, Any]:
    """Return the exported weights of a training's autoencoder."""
    return load_file(pathlib.Path(record.results[0].path) / "sae_weights.safetensors")


async def same_as_calm(harness: TrainingHarness, record: Any) -> None:
    """Compare a disturbed training with one that nobody disturbed: weights, and every step of metrics once."""
    await harness.create("calm", **LONG)
    calm = await harness.ready("calm")
    ours, theirs = weights(record), weights(calm)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    found, wanted = await harness.metrics(record), await harness.metrics("calm")
    assert [row.step for row in found] == list(range(1, STEPS + 1))
    assert [(row.step, row.training.loss, row.training.l0) for row in found] == [
        (row.step, row.training.loss, row.training.l0) for row in wanted
    ]


async def test_pause_and_resume(harness: TrainingHarness) -> None:
    await harness.create("paused", **LONG)
    await harness.beyond("paused", 30)
    asked = await harness.client.trainings.pause("paused")
    assert asked.pause_requested or watch_stream.state(asked) == "PAUSED"
    paused = await harness.state("paused", "PAUSED")
    assert not paused.pause_requested
    # On a machine that stands still a lease may be lost before.
    assert (await harness.outcomes(paused))[-1] == "RELEASED"
    (*_, checkpoint) = await harness.client.trainings.checkpoints("paused")
    rows = await harness.metrics("paused")
    assert checkpoint.step == rows[-1].step == paused.step < STEPS
    assert [update.training.name async for update in harness.client.trainings.follow("paused")] == ["trainings/paused"]
    assert await harness.client.trainings.pause("paused") == paused
    with pytest.raises(errors.FailedPrecondition) as caught:
        await harness.client.trainings.retry("paused")
    messages.check_names(caught.value.message, "trainings/paused", "PAUSED", "polytok training resume paused")
    assert "trainings/paused" in await harness.holders()
    resumed = await harness.client.trainings.resume("paused")
    ((point,),) = await harness.rows("SELECT resume_point FROM trainer.job_tasks WHERE job_id = $1::uuid", resumed.job)
    assert tasks_pb2.ResumePoint.FromString(point).weights_fingerprint == paused.lineage.weights_fingerprint != ""
    made = await harness.ready("paused")
    assert (await harness.outcomes(made))[-1] == "SUCCEEDED"
    for method, states in ((harness.client.trainings.resume, ["PAUSED"]), (harness.client.trainings.pause, LIVE)):
        with pytest.raises(errors.FailedPrecondition) as caught:
            await method("paused")
        assert caught.value.reason == "WRONG_STATE"
        assert caught.value.metadata == {"resource": "trainings/paused", "state": "READY"}
        messages.check_names(caught.value.message, "trainings/paused", "READY", *states)
    await same_as_calm(harness, made)


async def test_killed_worker(harness: TrainingHarness) -> None:
    await harness.create("killed", **LONG)
    await harness.checkpointed("killed")
    child = await harness.child()
    await harness.killed(WORKER)
    servers.await_condition(lambda: not processes.is_alive(child), "the worker's child has ended")
    made = await harness.ready("killed")
    outcomes = await harness.outcomes(made)
    assert (outcomes[0], outcomes[-1]) == ("LOST", "SUCCEEDED")
    await same_as_calm(harness, made)


async def test_killed_child_and_server(harness: TrainingHarness) -> None:
    await harness.create("shaken", **LONG)
    await harness.checkpointed("shaken")
    os.kill(await harness.child(), signal.SIGKILL)

    async def is_told() -> bool:
        return "FAILED" in await harness.outcomes(await harness.client.trainings.get("shaken"))

    # The owner knows before it is killed in its turn.
    await eventually(is_told, "the child's end is reported")
    await harness.killed("trainer")
    made = await harness.ready("shaken")
    await same_as_calm(harness, made)


async def test_an_expired_lease_writes_nothing(harness: TrainingHarness) -> None:
    await harness.create("fenced", **ENDLESS)
    await harness.checkpointed("fenced")
    worker, child = harness.pid(WORKER), await harness.child()
    # Both stand still until the lease is over; then the child goes on before anybody can tell it.
    async with contextlib.AsyncExitStack() as both:
        await both.enter_async_context(harness.stopped(child))
        await both.enter_async_context(harness.stopped(worker))

        async def is_lost() -> bool:
            return "LOST" in await harness.outcomes(await harness.client.trainings.get("fenced"))

        await eventually(is_lost, "the lease ran out")
        (last, *_) = await harness.rows(
            "SELECT max(seq) AS seq FROM trainer.training_metrics JOIN trainer.trainings ON id = training_id "
            "WHERE name = 'fenced'"
        )
    # The only worker takes the training again, under a new epoch, from the checkpoint.
    await eventually(lambda: _second_epoch(harness, int(last["seq"])), "rows of the second epoch")
    rows = await harness.rows(
        "SELECT m.step, attempt FROM trainer.training_metrics AS m JOIN trainer.trainings ON id = training_id "
        "WHERE name = 'fenced' AND kind = 'training' ORDER BY m.step"
    )
    epochs = [int(row["attempt"].split()[1]) for row in rows]
    assert epochs == sorted(epochs)  # nothing of the first epoch lies behind what the second began with
    assert (epochs[0], epochs[-1] > 1) == (1, True)
    assert [row["step"] for row in rows] == [10 * number for number in range(1, len(rows) + 1)]
    await harness.client.trainings.delete("fenced")


async def _second_epoch(harness: TrainingHarness, seq: int) -> bool:
    (found,) = await harness.rows(
        "SELECT count(*) AS number FROM trainer.training_metrics JOIN trainer.trainings ON id = training_id "
        "WHERE name = 'fenced' AND seq > $1 AND attempt NOT LIKE '% 1'",
        seq,
    )
    return int(found["number"]) > 3


async def test_cancel_then_retry(harness: TrainingHarness) -> None:
    await harness.create("cancelled", **LONG)
    await harness.checkpointed("cancelled")
    cancelled = await harness.client.trainings.cancel("cancelled")
    assert watch_stream.state(cancelled) == "CANCELLED"
    assert await harness.client.trainings.checkpoints("cancelled") == []
    assert await harness.metrics("cancelled")
    await eventually(lambda: _is_gone(harness.folder(cancelled)), "the files of a cancelled training are gone")
    await eventually(lambda: _is_free(harness, "trainings/cancelled"), "its tokenization is free")
    with pytest.raises(errors.Cancelled):
        await harness.client.trainings.wait("cancelled")
    again = await harness.client.trainings.retry("cancelled")
    assert (watch_stream.state(again), again.step) == ("QUEUED", 0)
    assert [row.step for row in await harness.metrics(await harness.ready("cancelled"))] == list(range(1, STEPS + 1))


async def _is_gone(folder: pathlib.Path) -> bool:
    return not any(files for _, _, files in os.walk(folder))


async def _is_free(harness: TrainingHarness, holder: str) -> bool:
    return holder not in await harness.holders()


async def test_delete_while_running(harness: TrainingHarness) -> None:
    record = await harness.create("deleted", **ENDLESS)
    await harness.checkpointed("deleted")
    with pytest.raises(errors.FailedPrecondition) as caught:
        await harness.client.tokenizations.delete(record.lineage.tokenization)
    assert caught.value.reason == "RESOURCE_HELD"
    messages.check_names(caught.value.metadata["holders"], "trainings/deleted")
    with pytest.raises(errors.Aborted) as aborted:
        await harness.client.trainings.delete("deleted", etag="0123456789abcdef")
    assert aborted.value.reason == "ETAG_MISMATCH"
    assert aborted.value.metadata == {"resource": "trainings/deleted"}
    await harness.client.trainings.delete("deleted")
    await eventually(lambda: _is_gone(harness.folder(record)), "its files are gone")
    await eventually(lambda: _is_free(harness, "trainings/deleted"), "its tokenization is free")
    ((rows,),) = await harness.rows("SELECT count(*) FROM trainer.training_metrics WHERE training_id = $1", record.uid)
    assert rows == 0
    # The worker is free for the next.
    await harness.create("after")
    await harness.ready("after")


async def test_pause_and_cancel_while_queued(harness: TrainingHarness) -> None:
    await harness.create("busy", **ENDLESS)
    await harness.beyond("busy", 1)
    await harness.create("waiting")
    paused = await harness.client.trainings.pause("waiting")
    assert watch_stream.state(paused) == "PAUSED"
    assert watch_stream.state(await harness.client.trainings.cancel("waiting")) == "CANCELLED"
    with pytest.raises(errors.FailedPrecondition) as caught:
        await harness.client.trainings.pause("waiting")
    assert caught.value.metadata == {"resource": "trainings/waiting", "state": "CANCELLED"}
    await harness.client.trainings.delete("busy")
    await harness.client.trainings.retry("waiting")
    await harness.ready("waiting")


async def test_divergence_is_an_error(harness: TrainingHarness) -> None:
    hot = samples.sae(architecture="standard", lr=1e30, gradient_clip=1e30, lr_warm_up_steps=4)
    await harness.create("diverged", saes=[hot], checkpoint_every=1)
    record = await harness.state("diverged", "ERROR")
    assert record.error_reason == "NOT_FINITE"
    messages.check_names(record.error_message, "NaN", "step", "optimizer.lr", "1e+30")
    assert (await harness.outcomes(record)).count("FAILED") == 1  # nobody tries the same again
    with pytest.raises(errors.FailedPrecondition) as caught:
        await harness.client.trainings.wait("diverged")
    assert caught.value.reason == "NOT_FINITE"
    assert caught.value.metadata["sae"] == f"{samples.HOOK}-standard"
