"""A tokenization of many stages, whose workers die in each of them, ends as one without faults does."""

import asyncio
import contextlib
import os
import pathlib
import signal
import zlib
from typing import Any

import pytest

from polytok import errors
from polytok.client import watch_stream
from tests.faults.scene import WORKERS, Scene, eventually, names_in
from tests.faults.watcher import Watcher
from tests.support import damage
from tests.tokenizer import oracle
from tests.tokenizer.jobs import Parameters

HOW: dict[str, Any] = {
    "packing": {"document_starts": True},
    "max_documents": 500,
    "filters": {"drop_duplicates": True, "drop_pattern": "gull gull"},
}
KINDS = ("tokenize.encode", "tokenize.arrange", "tokenize.duplicates", "tokenize.measure", "tokenize.assemble")


async def begun(scene: Scene, variant: str, kind: str) -> tuple[Any, Watcher]:
    """Starts a tokenization that is like no other; returns when it has come to tasks of a kind."""
    record = await scene.create(variant, shuffle_seed=zlib.crc32(variant.encode()), **HOW)
    watcher = Watcher(scene.client.tokenizations.watch(record))

    async def has_come() -> bool:
        ((count,),) = await scene.rows(
            "SELECT count(*) FROM job_tasks WHERE job_id = $1::uuid AND kind = $2 AND state <> 'READY'",
            record.job,
            kind,
        )
        return int(count) > 0

    await eventually(has_come, f"a task of kind {kind} runs")
    return record, watcher


async def is_whole(scene: Scene, record: Any) -> None:
    """The tokenization is what plain Python makes of the dataset's documents."""
    texts = await asyncio.to_thread(scene.texts)
    parameters = Parameters(max_length=32, shuffle_seed=record.parameters.shuffle_seed, **HOW)
    expected = oracle.expected(texts, parameters, scene.tokenizer)
    assert scene.ids(record) == expected.rows
    found = record.statistics
    for field, count in expected.counts.items():
        assert getattr(found, field) == count, field
    assert found.num_tokens == sum(map(len, expected.rows))
    await scene.nothing_left_behind(record)


@pytest.mark.parametrize("kind", [*(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS[:-1]), KINDS[-1]])
async def test_the_work_is_killed_in_every_stage(scene: Scene, kind: str) -> None:
    variant = "stages-" + kind.partition(".")[2]
    _, watcher = await begun(scene, variant, kind)
    for worker in WORKERS:
        if child := scene.child(worker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    made = await scene.wait(variant)
    await watcher.verify()
    await is_whole(scene, made)


@pytest.mark.long
async def test_a_worker_is_killed_with_its_work_in_hand(scene: Scene) -> None:
    async with scene.held(WORKERS[0]):
        record, watcher = await begun(scene, "stages-worker", "tokenize.encode")
        await scene.in_hand(WORKERS[0], "tokenization")
        await scene.busy(record, running=1, succeeded=3)
        await scene.killed(WORKERS[0])
    made = await scene.wait("stages-worker")
    await watcher.verify()
    await is_whole(scene, made)
    outcomes = await scene.outcomes(made)
    assert (outcomes["SUCCEEDED"], set(outcomes)) == (await scene.tasks(made, "SUCCEEDED"), {"LOST", "SUCCEEDED"})


@pytest.mark.long
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-1]])
async def test_what_is_stopped_leaves_nothing_staged(scene: Scene, kind: str) -> None:
    variant = "stopped-" + kind.partition(".")[2]
    record, _ = await begun(scene, variant, kind)
    with contextlib.suppress(errors.FailedPrecondition):
        # It may be READY by now.
        await scene.client.tokenizations.cancel(record)
    await scene.at_rest()
    if watch_stream.state(await scene.client.tokenizations.get(record)) == "CANCELLED":

        async def is_gone() -> bool:
            return names_in(record.tokenized_path) == set()

        await eventually(is_gone, "nothing is left")
        await scene.client.tokenizations.retry(record)
        await is_whole(scene, await scene.wait(variant))
    await scene.client.tokenizations.delete(record)
    await eventually(lambda: _empty(record.tokenized_path), "the folder is gone")


async def test_a_bit_changes_between_two_stages(scene: Scene) -> None:
    record = await scene.create("stages-damaged", shuffle_seed=7, **HOW)

    async def is_damaged() -> bool:
        staged = [name for name in names_in(record.tokenized_path) if name.startswith("staged-ids-")]
        for name in staged:
            damage.flip(pathlib.Path(record.tokenized_path, name), 0.0)
        return bool(staged)

    await eventually(is_damaged, "ids are staged")

    async def has_ended() -> bool:
        return watch_stream.state(await scene.client.tokenizations.get(record)) in {"READY", "ERROR"}

    await eventually(has_ended, "the tokenization ended")
    ended = await scene.client.tokenizations.get(record)
    assert (watch_stream.state(ended), ended.error_reason) == ("ERROR", "CHECKSUM_MISMATCH")
    assert "staged-ids-" in ended.error_message
    await scene.client.tokenizations.retry(record)
    await is_whole(scene, await scene.wait("stages-damaged"))


async def _empty(folder: str) -> bool:
    return names_in(folder) == set()
