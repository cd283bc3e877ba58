"""Whatever dies in the middle of a repair, it ends as an undisturbed one does: every file is what was written."""

import asyncio
import os
import pathlib
import signal
from typing import Any

import pytest

from polytok.client import watch_stream
from tests.faults.stack_harness import PATIENCE_SECONDS, WORKERS, StackHarness, eventually

FIRST, SECOND = WORKERS
KINDS = ("repair.check", "tokenize.shard", "repair.restore")


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Return every file of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def damaged(harness: StackHarness, variant: str) -> tuple[Any, dict[str, bytes]]:
    """Return a tokenization all of whose Arrow files have a bit that is not as it was, and every file as it was."""
    await harness.create(variant)
    record = await harness.wait(variant)
    folder = pathlib.Path(record.tokenized_path)
    await harness.nothing_left_behind(record)
    whole = contents(folder)
    for name, content in whole.items():
        if name.endswith(".arrow"):
            half = len(content) // 2
            (folder / name).write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
    return record, whole


async def is_whole(harness: StackHarness, record: Any, whole: dict[str, bytes]) -> Any:
    """Wait for the repair's end; return the repair. The bar of it went forward only."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        seen = [repair async for repair in harness.client.tokenizations.repairing(record)]
    progress = [repair.progress for repair in seen]
    assert progress == sorted(progress)
    last = seen[-1]
    assert watch_stream.state(last) == "DONE", last.error_message
    bad = sum(name.endswith(".arrow") for name in whole)
    assert (last.num_remade, list(last.changes), last.progress) == (bad, [], 100.0)
    found = pathlib.Path(record.tokenized_path)
    assert contents(found) == whole
    now = await harness.client.tokenizations.get(record)
    assert (now.manifest_digest, now.tokenized_path, watch_stream.state(now)) == (
        record.manifest_digest,
        record.tokenized_path,
        "READY",
    )
    # Neither a task nor what was made beside the files.
    await harness.nothing_left_behind(now)

    async def is_swept() -> bool:
        return not [path for path in found.parent.glob(f"{found.name}_*") if any(path.iterdir())]

    await eventually(is_swept, "nothing is left of what the repair made")
    return last


async def test_repair_survives_worker_kill(harness: StackHarness) -> None:
    record, whole = await damaged(harness, "repaired")
    async with harness.held(FIRST):
        await harness.client.tokenizations.repair(record)
        await harness.in_hand(FIRST, "repair")
        await harness.killed(FIRST)
    last = await is_whole(harness, record, whole)
    # A lease of a few seconds may run out on a busy machine as well.
    assert set(await harness.outcomes(last)) == {"LOST", "SUCCEEDED"}


@pytest.mark.long
@pytest.mark.parametrize("who", ["worker", "child", "catalog"])
@pytest.mark.parametrize("kind", KINDS)
async def test_all_is_killed_in_every_stage_of_a_repair(harness: StackHarness, kind: str, who: str) -> None:
    record, whole = await damaged(harness, f"repaired-{kind.partition('.')[2]}-{who}")
    begun = await harness.client.tokenizations.repair(record)

    async def has_come() -> bool:
        ((count,),) = await harness.rows(
            "SELECT count(*) FROM job_tasks WHERE job_id = $1::uuid AND kind = $2", begun.repair.job, kind
        )
        return int(count) > 0

    await eventually(has_come, f"the repair has come to {kind}")
    if who == "child":
        for child in filter(None, map(harness.child, WORKERS)):
            os.kill(child, signal.SIGKILL)
    else:
        await asyncio.gather(*(harness.killed(name) for name in (WORKERS if who == "worker" else [who])))
    await is_whole(harness, record, whole)
