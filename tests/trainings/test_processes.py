"""Trainings of several processes on a whole stack: they end as undisturbed ones, and leave no process behind."""

import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from polytok import errors
from polytok.client import watch_stream
from tests.support import messages, processes, servers
from tests.trainings import samples
from tests.trainings.training_harness import DATASET, MODEL, WORKER, TrainingHarness, child_of, eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

STEPS = 3000
LONG = {"total_samples": 64 * STEPS, "checkpoint_every": 100, "log_every": 20, "processes": 2}
RANK = b"services.trainer.worker.training_rank"
LAUNCHER = b"services.trainer.sae.distributed.torchrun_main"


@pytest.fixture
def harness(harness: TrainingHarness) -> TrainingHarness:
    """With patience: each attempt starts processes that import PyTorch at the same time."""
    harness.patience_seconds = 400.0
    return harness


def started_by(pid: int) -> Iterator[int]:
    """Yield the processes that a process started, those that they started, and so on."""
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(each) for each in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            yield child
            yield from started_by(child)


def names(pid: int, module: bytes) -> bool:
    """Return whether a module is among the arguments of a process."""
    try:
        return module in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


async def ranks(harness: TrainingHarness) -> list[int]:
    """Return the processes that train together, once all of them are there."""

    async def found() -> list[int]:
        # torchrun's own command line names their module too.
        under = list(started_by(child_of(harness.pid(WORKER))))
        running = [pid for pid in under if names(pid, RANK) and not names(pid, LAUNCHER)]
        return running if len(running) == 2 else []

    return list(await eventually(found, "two processes train", harness.patience_seconds))


def gone(pids: list[int]) -> None:
    for pid in pids:
        servers.await_condition(lambda pid=pid: not processes.is_alive(pid), f"process {pid} has ended")  # type: ignore[misc]


def exported(record: Any) -> dict[str, bytes]:
    """Return every file of the autoencoders of a training but what tells its name."""
    return {
        f"{result.name}/{path.name}": path.read_bytes()
        for result in record.results
        for path in sorted(pathlib.Path(result.path).glob("*.safetensors"))
    }


async def figures(harness: TrainingHarness, name: str) -> list[Any]:
    return [(row.sae, row.step, row.training.loss, row.training.l0) for row in await harness.metrics(name)]


async def test_shared_batches_survive_pause_and_kill(harness: TrainingHarness) -> None:
    await harness.create("calm-shared", **LONG)
    calm = await harness.ready("calm-shared")
    assert (calm.parameters.processes, calm.parameters.Spread.Name(calm.parameters.spread)) == (2, "SPREAD_DATA")
    assert calm.results[0].evaluation.figures["l0"] > 0
    assert [row.step for row in await harness.metrics("calm-shared")] == list(range(20, STEPS + 1, 20))

    await harness.create("shared", **LONG)
    first = await ranks(harness)
    await harness.checkpointed("shared")
    await harness.client.trainings.pause("shared")
    paused = await harness.state("shared", "PAUSED")
    assert 0 < paused.step < STEPS
    gone(first)
    await harness.client.trainings.resume("shared")
    second = await ranks(harness)
    await harness.beyond("shared", paused.step)
    os.kill(second[1], signal.SIGKILL)
    gone(second)
    made = await harness.ready("shared")
    assert (await harness.outcomes(made))[-2:] == ["FAILED", "SUCCEEDED"]
    (reported,) = await harness.rows(
        "SELECT a.error_reason, a.error_message "
        "FROM trainer.job_attempts AS a JOIN trainer.job_tasks AS t ON t.id = task_id "
        "WHERE job_id = $1::uuid AND outcome = 'FAILED'",
        made.job,
    )
    assert reported["error_reason"] == "WORKER_LOST"
    messages.check_names(reported["error_message"], 2, "SIGKILL")
    assert exported(made) == exported(calm)
    assert await figures(harness, "shared") == await figures(harness, "calm-shared")


async def test_spread_autoencoders_survive_a_killed_worker(harness: TrainingHarness) -> None:
    saes = [samples.sae(), samples.sae(samples.EARLIER, "batchtopk"), samples.sae(architecture="standard")]
    await harness.create("alone", saes=saes, **(LONG | {"processes": 1}))
    alone = await harness.ready("alone")
    await harness.create("spread", saes=saes, **LONG, spread="autoencoders")
    running = await ranks(harness)
    launcher = [pid for pid in started_by(await harness.child()) if names(pid, LAUNCHER)]
    await harness.checkpointed("spread")
    await harness.killed(WORKER)
    gone([*launcher, *running])
    made = await harness.ready("spread")
    assert await harness.outcomes(made) == ["LOST", "SUCCEEDED"]
    assert [result.name for result in made.results] == [result.name for result in alone.results]
    assert exported(made) == exported(alone)
    assert await figures(harness, "spread") == await figures(harness, "alone")
    assert {row.sae for row in await harness.metrics("spread", "evaluation")} == {sae.name for sae in made.saes}
    for ours, theirs in zip(made.results, alone.results, strict=True):
        # NaN, an undefined figure, is equal to nothing.
        assert str(ours.evaluation) == str(theirs.evaluation)


async def test_cancel_and_kill_leave_no_process(harness: TrainingHarness) -> None:
    await harness.create("endless", **(LONG | {"total_samples": 64 * 1_000_000}))
    first = await ranks(harness)
    (launcher,) = [pid for pid in started_by(await harness.child()) if names(pid, LAUNCHER)]
    await harness.checkpointed("endless")
    os.kill(launcher, signal.SIGKILL)
    gone(first)
    second = await ranks(harness)
    record = await harness.client.trainings.cancel("endless")
    assert watch_stream.state(record) == "CANCELLED"
    gone(second)
    await harness.create("after-several")
    await harness.ready("after-several")


async def test_an_error_in_one_process(harness: TrainingHarness) -> None:
    hot = samples.sae(architecture="standard", lr=1e30, gradient_clip=1e30, lr_warm_up_steps=4)
    await harness.create("hot", saes=[samples.sae(), hot], checkpoint_every=1, processes=2, spread="autoencoders")
    record = await harness.state("hot", "ERROR")
    assert record.error_reason == "NOT_FINITE"
    messages.check_names(record.error_message, f"{samples.HOOK}-standard", "NaN")
    assert await harness.outcomes(record) == ["FAILED"]
    with pytest.raises(errors.FailedPrecondition) as caught:
        await harness.client.trainings.wait("hot")
    assert caught.value.reason == "NOT_FINITE"
    assert caught.value.metadata["sae"] == f"{samples.HOOK}-standard"


async def test_an_extraction_is_read_by_several(harness: TrainingHarness) -> None:
    hooks = [samples.EARLIER, samples.HOOK]
    await harness.client.extractions.create(DATASET, MODEL, hooks=hooks, context_size=16, name="for-several")
    await harness.client.extractions.wait("for-several", timeout=harness.patience_seconds)
    made = []
    for number in (1, 2):
        name = f"extracted-{number}"
        await harness.client.trainings.create(
            extraction="for-several",
            saes=[samples.sae(hook) for hook in hooks],
            name=name,
            batch_size=64,
            total_samples=64 * 40,
            processes=number,
            spread="autoencoders",
        )
        made.append(await harness.ready(name))
    assert exported(made[0]) == exported(made[1])
    assert len(exported(made[1])) == 4
