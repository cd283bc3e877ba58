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
from tests.faults.stack_harness import WORKERS, StackHarness, eventually, names_in
from tests.faults.watcher import Watcher
from tests.support import damage
from tests.tokenizer import oracle
from tests.tokenizer.task_runner import Parameters

HOW: dict[str, Any] = {
    "packing": {"document_starts": True},
    "max_documents": 500,
    "filters": {"drop_duplicates": True, "drop_pattern": "gull gull"},
}
KINDS = ("tokenize.encode", "tokenize.arrange", "tokenize.duplicates", "tokenize.measure", "tokenize.assemble")


async def begun(harness: StackHarness, variant: str, kind: str) -> tuple[Any, Watcher]:
    """Start a tokenization that is like no other; returns when it has come to tasks of a kind."""
    record = await harness.create(variant, shuffle_seed=zlib.crc32(variant.encode()), **HOW)
    watcher = Watcher(harness.client.tokenizations.watch(record))

    async def has_come() -> bool:
        ((count,),) = await harness.rows(
            "SELECT count(*) FROM job_tasks WHERE job_id = $1::uuid AND kind = $2 AND state <> 'READY'",
            record.job,
            kind,
        )
        return int(count) > 0

    await eventually(has_come, f"a task of kind {kind} runs")
    return record, watcher


async def is_whole(harness: StackHarness, record: Any) -> None:
    """The tokenization is what plain Python makes of the dataset's documents."""
    texts = await asyncio.to_thread(harness.texts)
    parameters = Parameters(max_length=32, shuffle_seed=record.parameters.shuffle_seed, **HOW)
    expected = oracle.expected(texts, parameters, harness.tokenizer)
    assert harness.ids(record) == expected.rows
    found = record.statistics
    for field, count in expected.counts.items():
        assert getattr(found, field) == count, field
    assert found.num_tokens == sum(map(len, expected.rows))
    await harness.nothing_left_behind(record)


@pytest.mark.parametrize("kind", [*(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS[:-1]), KINDS[-1]])
async def test_the_work_is_killed_in_every_stage(harness: StackHarness, kind: str) -> None:
    variant = "stages-" + kind.partition(".")[2]
    _, watcher = await begun(harness, variant, kind)
    for worker in WORKERS:
        if child := harness.child(worker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    made = await harness.wait(variant)
    await watcher.verify()
    await is_whole(harness, made)


@pytest.mark.long
async def test_a_worker_is_killed_during_a_task(harness: StackHarness) -> None:
    async with harness.held(WORKERS[0]):
        record, watcher = await begun(harness, "stages-worker", "tokenize.encode")
        await harness.in_hand(WORKERS[0], "tokenization")
        await harness.busy(record, running=1, succeeded=3)
        await harness.killed(WORKERS[0])
    made = await harness.wait("stages-worker")
    await watcher.verify()
    await is_whole(harness, made)
    outcomes = await harness.outcomes(made)
    assert (outcomes["SUCCEEDED"], set(outcomes)) == (await harness.tasks(made, "SUCCEEDED"), {"LOST", "SUCCEEDED"})


@pytest.mark.long
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-1]])
async def test_what_is_stopped_leaves_nothing_staged(harness: StackHarness, kind: str) -> None:
    variant = "stopped-" + kind.partition(".")[2]
    record, _ = await begun(harness, variant, kind)
    with contextlib.suppress(errors.FailedPrecondition):
        # It may be READY by now.
        await harness.client.tokenizations.cancel(record)
    await harness.at_rest()
    if watch_stream.state(await harness.client.tokenizations.get(record)) == "CANCELLED":

        async def is_gone() -> bool:
            return names_in(record.tokenized_path) == set()

        await eventually(is_gone, "nothing is left")
        await harness.client.tokenizations.retry(record)
        await is_whole(harness, await harness.wait(variant))
    await harness.client.tokenizations.delete(record)
    await eventually(lambda: _empty(record.tokenized_path), "the folder is gone")


async def test_a_bit_changes_between_two_stages(harness: StackHarness) -> None:
    record = await harness.create("stages-damaged", shuffle_seed=7, **HOW)

    async def is_damaged() -> bool:
        staged = [name for name in names_in(record.tokenized_path) if name.startswith("staged-ids-")]
        for name in staged:
            damage.flip(pathlib.Path(record.tokenized_path, name), 0.0)
        return bool(staged)

    await eventually(is_damaged, "ids are staged")

    async def has_ended() -> bool:
        return watch_stream.state(await harness.client.tokenizations.get(record)) in {"READY", "ERROR"}

    await eventually(has_ended, "the tokenization ended")
    ended = await harness.client.tokenizations.get(record)
    assert (watch_stream.state(ended), ended.error_reason) == ("ERROR", "CHECKSUM_MISMATCH")
    assert "staged-ids-" in ended.error_message
    await harness.client.tokenizations.retry(record)
    await is_whole(harness, await harness.wait("stages-damaged"))


async def _empty(folder: str) -> bool:
    return names_in(folder) == set()
