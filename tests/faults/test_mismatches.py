"""An engine is distrusted in the middle of a tokenization, and workers die while its shards are made again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.faults.conftest import CALM, DATASET, MODEL
from tests.faults.stack_harness import WORKERS, StackHarness, eventually
from tests.faults.test_stages import HOW
from tests.faults.test_stages import is_whole as equals_the_oracle
from tests.faults.watcher import Watcher


@contextlib.asynccontextmanager
async def distrusted(harness: StackHarness, fingerprint: str, engine: str) -> AsyncIterator[None]:
    """Yield what a worker reports that finds a mismatch, for as long as the block lasts."""
    key = (fingerprint, engine)
    await harness.rows("INSERT INTO distrusted_engines (tokenizer_fingerprint, engine) VALUES ($1, $2)", *key)
    try:
        yield
    finally:
        await harness.rows("DELETE FROM distrusted_engines WHERE tokenizer_fingerprint = $1 AND engine = $2", *key)


@pytest.mark.parametrize("kind", ["tokenize.shard", pytest.param("tokenize.encode", marks=pytest.mark.long)])
async def test_workers_die_while_shards_are_made_again(harness: StackHarness, calm: list[list[int]], kind: str) -> None:
    before = await harness.client.tokenizations.get(DATASET, MODEL, variant=CALM)
    (engine,) = before.statistics.engine_versions
    variant = "distrusted-" + kind.partition(".")[2]
    how: dict[str, Any] = {} if kind == "tokenize.shard" else {**HOW, "shuffle_seed": 11}
    async with contextlib.AsyncExitStack() as stack:
        async with harness.held(*WORKERS):
            # Its tasks are written before anybody knows.
            record = await harness.create(variant, **how)
            watcher = Watcher(harness.client.tokenizations.watch(record))
            await stack.enter_async_context(distrusted(harness, before.tokenizer_fingerprint, engine))

        async def is_made_again() -> bool:
            ((count,),) = await harness.rows(
                "SELECT count(*) FROM job_tasks WHERE job_id = $1::uuid AND kind = $2 AND stage = 1 "
                "AND state = 'RUNNING'",
                record.job,
                kind,
            )
            return int(count) > 0

        await eventually(is_made_again, "shards are made again")
        await asyncio.gather(*(harness.killed(worker) for worker in WORKERS))
        made = await harness.wait(variant)
    await watcher.verify()
    found = made.statistics
    assert (found.engine, list(found.engine_versions), list(found.distrusted_engines)) == ("reference", [], [engine])
    ((shards,),) = await harness.rows(
        "SELECT count(*) FROM job_tasks WHERE job_id = $1::uuid AND kind = $2 AND stage = 0", record.job, kind
    )
    assert found.num_shards_encoded_again == shards
    if how:
        await equals_the_oracle(harness, made)
    else:
        assert harness.ids(made) == calm
        await harness.nothing_left_behind(made)
