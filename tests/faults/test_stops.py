"""Cancelling and deleting what is being made; and requests that arrive twice."""

import asyncio
import contextlib
import uuid

import pytest

from polytok import errors
from polytok.client import watch_stream
from tests.faults.stack_harness import PATIENCE_SECONDS, WORKERS, StackHarness, eventually, names_in
from tests.support import processes

Rows = list[list[int]]


async def gone(folder: str) -> None:
    async def is_gone() -> bool:
        return names_in(folder) == set()

    await eventually(is_gone, f"{folder} is gone")


async def test_cancelling_what_is_being_made(harness: StackHarness, calm: Rows) -> None:
    async with harness.held(*WORKERS):
        record = await harness.create("cancelled")
        await harness.busy(record, running=2)
        children = [harness.child(worker) for worker in WORKERS]
        cancelled = await harness.client.tokenizations.cancel(record)
        assert watch_stream.state(cancelled) == "CANCELLED"

        async def ended() -> bool:
            return not any(processes.is_alive(child) for child in children)

        await eventually(ended, "the work has ended")
    await harness.at_rest()
    await gone(record.tokenized_path)
    with pytest.raises(errors.Cancelled):
        await harness.client.tokenizations.wait(record, timeout=PATIENCE_SECONDS)
    with pytest.raises(errors.FailedPrecondition, match="CANCELLED"):
        await harness.client.load(harness.dataset, harness.model, "cancelled")
    again = await harness.client.tokenizations.retry(record)
    assert again.job != record.job
    made = await harness.wait("cancelled")
    assert harness.ids(made) == calm
    await harness.nothing_left_behind(made)


async def test_cancelling_while_the_catalog_restarts(harness: StackHarness, calm: Rows) -> None:
    async with harness.held(*WORKERS):
        record = await harness.create("cancelled-late")
        await harness.busy(record, running=2)
        request_id = str(uuid.uuid4())
        asked = asyncio.create_task(harness.client.tokenizations.cancel(record, request_id=request_id))
        await harness.killed("catalog")
        # Whether it was answered, done and not answered, or not done: the same again is right.
        await asyncio.wait({asked})
        asked.exception()
        cancelled = await harness.client.tokenizations.cancel(record, request_id=request_id)
    assert watch_stream.state(cancelled) == "CANCELLED"
    await harness.at_rest()
    await gone(record.tokenized_path)
    assert watch_stream.state(await harness.client.tokenizations.get(record)) == "CANCELLED"


async def test_deleting_what_is_being_made(harness: StackHarness, calm: Rows) -> None:
    async with harness.held(WORKERS[0]):
        record = await harness.create("deleted")
        await harness.busy(record, running=1, succeeded=3)
        await harness.client.tokenizations.delete(record)
        with pytest.raises(errors.NotFound):
            await harness.client.tokenizations.get(record)
    await harness.at_rest()
    await gone(record.tokenized_path)
    assert await harness.rows("SELECT id FROM jobs WHERE id = $1::uuid", record.job) == []
    # The same again is a new one, in the same folder, of which nothing of the old one is left.
    again = await harness.create("deleted")
    assert (again.uid, again.tokenized_path) == (record.uid, record.tokenized_path)
    made = await harness.wait("deleted")
    assert harness.ids(made) == calm
    await harness.nothing_left_behind(made)


async def test_deleting_and_making_it_again_at_once(harness: StackHarness, calm: Rows) -> None:
    """A worker still runs a task of the deleted tokenization when the next one begins in the same folder."""
    async with harness.held(WORKERS[0]):
        record = await harness.create("replaced")
        await harness.busy(record, running=1, succeeded=3)
        await harness.client.tokenizations.delete(record)
        await harness.create("replaced")
    made = await harness.wait("replaced")
    assert made.job != record.job
    assert harness.ids(made) == calm
    await harness.nothing_left_behind(made)


async def test_a_request_that_arrives_twice_happens_once(harness: StackHarness) -> None:
    request_id = str(uuid.uuid4())
    first = await harness.create("twice", request_id=request_id)
    made = await harness.wait("twice")
    # The answer is that of the first time, though the record went on since.
    assert await harness.create("twice", request_id=request_id) == first
    assert watch_stream.state(first) == "QUEUED"
    with pytest.raises(errors.InvalidArgument, match="request_id"):
        await harness.create("another", request_id=request_id)
    with pytest.raises(errors.NotFound):
        await harness.client.tokenizations.get(harness.dataset, harness.model, variant="another")
    assert await harness.client.tokenizations.get(made) == made
    deletion = str(uuid.uuid4())
    await harness.client.tokenizations.delete(made, request_id=deletion)
    await harness.client.tokenizations.delete(made, request_id=deletion)
    with pytest.raises(errors.NotFound):
        await harness.client.tokenizations.delete(made, request_id=str(uuid.uuid4()))
    assert await harness.create("twice", request_id=request_id) == first


async def test_a_request_whose_answer_is_lost_happens_once(harness: StackHarness, calm: Rows) -> None:
    """The catalog is killed with requests in flight; each is sent again until it is answered."""
    requests = {f"lost-{number}": str(uuid.uuid4()) for number in range(8)}
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(harness.held(*WORKERS))
        sent = [asyncio.create_task(harness.replayed(variant, each)) for variant, each in requests.items()]
        await harness.killed("catalog")
        answers = await asyncio.gather(*sent)
    replayed = [await harness.create(variant, request_id=each) for variant, each in requests.items()]
    assert replayed == answers
    resources = [answer.name for answer in answers]
    jobs = await harness.rows("SELECT resource FROM jobs WHERE resource = ANY($1::text[])", resources)
    assert sorted(str(resource) for (resource,) in jobs) == sorted(resources)
    for variant in requests:
        assert harness.ids(await harness.wait(variant)) == calm
    await harness.at_rest()
