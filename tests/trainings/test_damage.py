"""A paused training whose checkpoint is damaged on disk resumes from an earlier one, or fails; it never trains on."""

import pathlib
from typing import Any

import pytest
from safetensors.torch import load_file

from polytok import errors
from tests.support import damage, messages
from tests.trainings.training_harness import TrainingHarness

STEPS = 1600
LONG = {"total_samples": 64 * STEPS, "checkpoint_every": 40, "log_every": 40}
FILES = ["data-00000.safetensors", "manifest.json", "random.safetensors", "sae-00000.safetensors"]


async def pause(harness: TrainingHarness, name: str, step: int) -> list[Any]:
    """Pause a training once it is beyond a step and has two checkpoints; return its checkpoints."""
    await harness.beyond(name, step)
    async with harness.stopped(await harness.child()):
        await harness.client.trainings.pause(name)
    assert (await harness.state(name, "PAUSED")).step < STEPS, "it ended before it was paused"
    return list(await harness.client.trainings.checkpoints(name))


def damaged(checkpoint: Any, file: str) -> None:
    """Flip a bit of a checkpoint's file."""
    folder = pathlib.Path(checkpoint.path)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    damage.flip(folder / file, 0.5)


def content(record: Any) -> dict[str, Any]:
    return load_file(pathlib.Path(record.results[0].path) / "sae_weights.safetensors")


@pytest.mark.parametrize("files", [FILES[-1:], pytest.param(FILES[:-1], marks=pytest.mark.long)], ids=len)
async def test_a_damaged_checkpoint_falls_back(harness: TrainingHarness, files: list[str]) -> None:
    await harness.create("damaged", **LONG)
    step = 80
    for file in files:
        *_, earlier, newest = await pause(harness, "damaged", step)
        assert earlier.step < newest.step
        damaged(newest, file)
        await harness.client.trainings.resume("damaged")
        step = newest.step
    made = await harness.ready("damaged")
    await harness.create("undamaged", **LONG)
    expected = await harness.ready("undamaged")
    assert await harness.outcomes(made) == ["SUCCEEDED"]
    found, wanted = content(made), content(expected)
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(wanted[name]) for name in wanted)
    rows = [(row.step, row.training.loss) for row in await harness.metrics("damaged")]
    assert rows == [(row.step, row.training.loss) for row in await harness.metrics("undamaged")]
    assert [step for step, _ in rows] == list(range(40, STEPS + 1, 40))


async def test_no_good_checkpoint_is_an_error(harness: TrainingHarness) -> None:
    await harness.create("ruined", **LONG)
    kept = await pause(harness, "ruined", 80)
    for checkpoint in kept:
        damaged(checkpoint, "sae-00000.safetensors")
    await harness.client.trainings.resume("ruined")
    record = await harness.state("ruined", "ERROR")
    assert record.error_reason == "CHECKSUM_MISMATCH"
    names = [f"step-{checkpoint.step:012d}/sae-00000.safetensors" for checkpoint in kept]
    messages.check_names(record.error_message, *names)
    assert (await harness.outcomes(record)) == ["FAILED"]
    with pytest.raises(errors.DataLoss):
        await harness.client.trainings.wait("ruined")
    await harness.client.trainings.retry("ruined", from_start=True)
    await harness.ready("ruined")
