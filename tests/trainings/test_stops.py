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
from tests.trainings import material
from tests.trainings.scene import WORKER, Scene, eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

STEPS = 4000
LONG = {"total_samples": 64 * STEPS, "checkpoint_every": 100}
"""Seconds of work, also on a fast machine: a test has time to disturb it."""
LIVE = ["QUEUED", "PROCESSING"]
ENDLESS = {"total_samples": 64 * 1_000_000, "checkpoint_every": 100, "log_every": 10}


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """With patience: thousands of steps, each told, are slow on a machine that does much else."""
    scene.patience_seconds = 400.0
    return scene


def weights(record: Any) -> dict[str, Any]:
    """The exported weights of a training's autoencoder."""
    return load_file(pathlib.Path(record.results[0].path) / "sae_weights.safetensors")


async def same_as_calm(scene: Scene, record: Any) -> None:
    """Compares a disturbed training with one that nobody disturbed: weights, and every step of metrics once."""
    await scene.create("calm", **LONG)
    calm = await scene.ready("calm")
    ours, theirs = weights(record), weights(calm)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    found, wanted = await scene.metrics(record), await scene.metrics("calm")
    assert [row.step for row in found] == list(range(1, STEPS + 1))
    assert [(row.step, row.training.loss, row.training.l0) for row in found] == [
        (row.step, row.training.loss, row.training.l0) for row in wanted
    ]


async def test_pause_and_resume(scene: Scene) -> None:
    await scene.create("paused", **LONG)
    await scene.beyond("paused", 30)
    asked = await scene.client.trainings.pause("paused")
    assert asked.pause_requested or watch_stream.state(asked) == "PAUSED"
    paused = await scene.state("paused", "PAUSED")
    assert not paused.pause_requested
    # On a machine that stands still a lease may be lost before.
    assert (await scene.outcomes(paused))[-1] == "RELEASED"
    (*_, checkpoint) = await scene.client.trainings.checkpoints("paused")
    rows = await scene.metrics("paused")
    assert checkpoint.step == rows[-1].step == paused.step < STEPS
    assert [update.training.name async for update in scene.client.trainings.follow("paused")] == ["trainings/paused"]
    assert await scene.client.trainings.pause("paused") == paused
    with pytest.raises(errors.FailedPrecondition) as caught:
        await scene.client.trainings.retry("paused")
    messages.check_names(caught.value.message, "trainings/paused", "PAUSED", "polytok training resume paused")
    assert "trainings/paused" in await scene.holders()
    resumed = await scene.client.trainings.resume("paused")
    ((point,),) = await scene.rows("SELECT resume_point FROM trainer.job_tasks WHERE job_id = $1::uuid", resumed.job)
    assert tasks_pb2.ResumePoint.FromString(point).weights_fingerprint == paused.lineage.weights_fingerprint != ""
    made = await scene.ready("paused")
    assert (await scene.outcomes(made))[-1] == "SUCCEEDED"
    for method, states in ((scene.client.trainings.resume, ["PAUSED"]), (scene.client.trainings.pause, LIVE)):
        with pytest.raises(errors.FailedPrecondition) as caught:
            await method("paused")
        assert caught.value.reason == "WRONG_STATE"
        assert caught.value.metadata == {"resource": "trainings/paused", "state": "READY"}
        messages.check_names(caught.value.message, "trainings/paused", "READY", *states)
    await same_as_calm(scene, made)


async def test_killed_worker(scene: Scene) -> None:
    await scene.create("killed", **LONG)
    await scene.checkpointed("killed")
    child = await scene.child()
    await scene.killed(WORKER)
    servers.await_condition(lambda: not processes.is_alive(child), "the worker's child has ended")
    made = await scene.ready("killed")
    outcomes = await scene.outcomes(made)
    assert (outcomes[0], outcomes[-1]) == ("LOST", "SUCCEEDED")
    await same_as_calm(scene, made)


async def test_killed_child_and_server(scene: Scene) -> None:
    await scene.create("shaken", **LONG)
    await scene.checkpointed("shaken")
    os.kill(await scene.child(), signal.SIGKILL)

    async def is_told() -> bool:
        return "FAILED" in await scene.outcomes(await scene.client.trainings.get("shaken"))

    # The owner knows before it is killed in its turn.
    await eventually(is_told, "the child's end is told")
    await scene.killed("trainer")
    made = await scene.ready("shaken")
    await same_as_calm(scene, made)


async def test_an_expired_lease_writes_nothing(scene: Scene) -> None:
    await scene.create("fenced", **ENDLESS)
    await scene.checkpointed("fenced")
    worker, child = scene.pid(WORKER), await scene.child()
    # Both stand still until the lease is over; then the child goes on before anybody can tell it.
    async with contextlib.AsyncExitStack() as both:
        await both.enter_async_context(scene.stopped(child))
        await both.enter_async_context(scene.stopped(worker))

        async def is_lost() -> bool:
            return "LOST" in await scene.outcomes(await scene.client.trainings.get("fenced"))

        await eventually(is_lost, "the lease ran out")
        (last, *_) = await scene.rows(
            "SELECT max(seq) AS seq FROM trainer.training_metrics JOIN trainer.trainings ON id = training_id "
            "WHERE name = 'fenced'"
        )
    # The only worker takes the training again, under a new epoch, from the checkpoint.
    await eventually(lambda: _second_epoch(scene, int(last["seq"])), "rows of the second epoch")
    rows = await scene.rows(
        "SELECT m.step, attempt FROM trainer.training_metrics AS m JOIN trainer.trainings ON id = training_id "
        "WHERE name = 'fenced' AND kind = 'training' ORDER BY m.step"
    )
    epochs = [int(row["attempt"].split()[1]) for row in rows]
    assert epochs == sorted(epochs)  # nothing of the first epoch lies behind what the second began with
    assert (epochs[0], epochs[-1] > 1) == (1, True)
    assert [row["step"] for row in rows] == [10 * number for number in range(1, len(rows) + 1)]
    await scene.client.trainings.delete("fenced")


async def _second_epoch(scene: Scene, seq: int) -> bool:
    (found,) = await scene.rows(
        "SELECT count(*) AS number FROM trainer.training_metrics JOIN trainer.trainings ON id = training_id "
        "WHERE name = 'fenced' AND seq > $1 AND attempt NOT LIKE '% 1'",
        seq,
    )
    return int(found["number"]) > 3


async def test_cancel_then_retry(scene: Scene) -> None:
    await scene.create("cancelled", **LONG)
    await scene.checkpointed("cancelled")
    cancelled = await scene.client.trainings.cancel("cancelled")
    assert watch_stream.state(cancelled) == "CANCELLED"
    assert await scene.client.trainings.checkpoints("cancelled") == []
    assert await scene.metrics("cancelled")
    await eventually(lambda: _is_gone(scene.folder(cancelled)), "the files of a cancelled training are gone")
    await eventually(lambda: _is_free(scene, "trainings/cancelled"), "its tokenization is free")
    with pytest.raises(errors.Cancelled):
        await scene.client.trainings.wait("cancelled")
    again = await scene.client.trainings.retry("cancelled")
    assert (watch_stream.state(again), again.step) == ("QUEUED", 0)
    assert [row.step for row in await scene.metrics(await scene.ready("cancelled"))] == list(range(1, STEPS + 1))


async def _is_gone(folder: pathlib.Path) -> bool:
    return not any(files for _, _, files in os.walk(folder))


async def _is_free(scene: Scene, holder: str) -> bool:
    return holder not in await scene.holders()


async def test_delete_while_running(scene: Scene) -> None:
    record = await scene.create("deleted", **ENDLESS)
    await scene.checkpointed("deleted")
    with pytest.raises(errors.FailedPrecondition) as caught:
        await scene.client.tokenizations.delete(record.lineage.tokenization)
    assert caught.value.reason == "RESOURCE_HELD"
    messages.check_names(caught.value.metadata["holders"], "trainings/deleted")
    with pytest.raises(errors.Aborted) as aborted:
        await scene.client.trainings.delete("deleted", etag="0123456789abcdef")
    assert aborted.value.reason == "ETAG_MISMATCH"
    assert aborted.value.metadata == {"resource": "trainings/deleted"}
    await scene.client.trainings.delete("deleted")
    await eventually(lambda: _is_gone(scene.folder(record)), "its files are gone")
    await eventually(lambda: _is_free(scene, "trainings/deleted"), "its tokenization is free")
    ((rows,),) = await scene.rows("SELECT count(*) FROM trainer.training_metrics WHERE training_id = $1", record.uid)
    assert rows == 0
    # The worker is free for the next.
    await scene.create("after")
    await scene.ready("after")


async def test_pause_and_cancel_while_queued(scene: Scene) -> None:
    await scene.create("busy", **ENDLESS)
    await scene.beyond("busy", 1)
    await scene.create("waiting")
    paused = await scene.client.trainings.pause("waiting")
    assert watch_stream.state(paused) == "PAUSED"
    assert watch_stream.state(await scene.client.trainings.cancel("waiting")) == "CANCELLED"
    with pytest.raises(errors.FailedPrecondition) as caught:
        await scene.client.trainings.pause("waiting")
    assert caught.value.metadata == {"resource": "trainings/waiting", "state": "CANCELLED"}
    await scene.client.trainings.delete("busy")
    await scene.client.trainings.retry("waiting")
    await scene.ready("waiting")


async def test_divergence_is_an_error(scene: Scene) -> None:
    hot = material.sae(architecture="standard", lr=1e30, gradient_clip=1e30, lr_warm_up_steps=4)
    await scene.create("diverged", saes=[hot], checkpoint_every=1)
    record = await scene.state("diverged", "ERROR")
    assert record.error_reason == "NOT_FINITE"
    messages.check_names(record.error_message, "NaN", "step", "optimizer.lr", "1e+30")
    assert (await scene.outcomes(record)).count("FAILED") == 1  # nobody tries the same again
    with pytest.raises(errors.FailedPrecondition) as caught:
        await scene.client.trainings.wait("diverged")
    assert caught.value.reason == "NOT_FINITE"
    assert caught.value.metadata["sae"] == f"{material.HOOK}-standard"
