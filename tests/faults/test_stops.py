"""Cancelling and deleting what is being made; and requests that arrive twice."""

import asyncio
import contextlib
import uuid

import pytest

from polytok import errors
from polytok.client import watch_stream
from tests.faults.scene import PATIENCE_SECONDS, WORKERS, Scene, eventually, names_in
from tests.support import processes

Rows = list[list[int]]


async def gone(folder: str) -> None:
    async def is_gone() -> bool:
        return names_in(folder) == set()

    await eventually(is_gone, f"{folder} is gone")


async def test_cancelling_what_is_being_made(scene: Scene, calm: Rows) -> None:
    async with scene.held(*WORKERS):
        record = await scene.create("cancelled")
        await scene.busy(record, running=2)
        children = [scene.child(worker) for worker in WORKERS]
        cancelled = await scene.client.tokenizations.cancel(record)
        assert watch_stream.state(cancelled) == "CANCELLED"

        async def ended() -> bool:
            return not any(processes.is_alive(child) for child in children)

        await eventually(ended, "the work has ended")
    await scene.at_rest()
    await gone(record.tokenized_path)
    with pytest.raises(errors.Cancelled):
        await scene.client.tokenizations.wait(record, timeout=PATIENCE_SECONDS)
    with pytest.raises(errors.FailedPrecondition, match="CANCELLED"):
        await scene.client.load(scene.dataset, scene.model, "cancelled")
    again = await scene.client.tokenizations.retry(record)
    assert again.job != record.job
    made = await scene.wait("cancelled")
    assert scene.ids(made) == calm
    await scene.nothing_left_behind(made)


async def test_cancelling_while_the_catalog_restarts(scene: Scene, calm: Rows) -> None:
    async with scene.held(*WORKERS):
        record = await scene.create("cancelled-late")
        await scene.busy(record, running=2)
        request_id = str(uuid.uuid4())
        asked = asyncio.create_task(scene.client.tokenizations.cancel(record, request_id=request_id))
        await scene.killed("catalog")
        # Whether it was answered, done and not answered, or not done: the same again is right.
        await asyncio.wait({asked})
        asked.exception()
        cancelled = await scene.client.tokenizations.cancel(record, request_id=request_id)
    assert watch_stream.state(cancelled) == "CANCELLED"
    await scene.at_rest()
    await gone(record.tokenized_path)
    assert watch_stream.state(await scene.client.tokenizations.get(record)) == "CANCELLED"


async def test_deleting_what_is_being_made(scene: Scene, calm: Rows) -> None:
    async with scene.held(WORKERS[0]):
        record = await scene.create("deleted")
        await scene.busy(record, running=1, succeeded=3)
        await scene.client.tokenizations.delete(record)
        with pytest.raises(errors.NotFound):
            await scene.client.tokenizations.get(record)
    await scene.at_rest()
    await gone(record.tokenized_path)
    assert await scene.rows("SELECT id FROM jobs WHERE id = $1::uuid", record.job) == []
    # The same again is a new one, in the same folder, of which nothing of the old one is left.
    again = await scene.create("deleted")
    assert (again.uid, again.tokenized_path) == (record.uid, record.tokenized_path)
    made = await scene.wait("deleted")
    assert scene.ids(made) == calm
    await scene.nothing_left_behind(made)


async def test_deleting_and_making_it_again_at_once(scene: Scene, calm: Rows) -> None:
    """A worker still has a task of the deleted one in its hands when the next one begins in the same folder."""
    async with scene.held(WORKERS[0]):
        record = await scene.create("replaced")
        await scene.busy(record, running=1, succeeded=3)
        await scene.client.tokenizations.delete(record)
        await scene.create("replaced")
    made = await scene.wait("replaced")
    assert made.job != record.job
    assert scene.ids(made) == calm
    await scene.nothing_left_behind(made)


async def test_a_request_that_arrives_twice_happens_once(scene: Scene) -> None:
    request_id = str(uuid.uuid4())
    first = await scene.create("twice", request_id=request_id)
    made = await scene.wait("twice")
    # The answer is that of the first time, though the record went on since.
    assert await scene.create("twice", request_id=request_id) == first
    assert watch_stream.state(first) == "QUEUED"
    with pytest.raises(errors.InvalidArgument, match="request_id"):
        await scene.create("another", request_id=request_id)
    with pytest.raises(errors.NotFound):
        await scene.client.tokenizations.get(scene.dataset, scene.model, variant="another")
    assert await scene.client.tokenizations.get(made) == made
    deletion = str(uuid.uuid4())
    await scene.client.tokenizations.delete(made, request_id=deletion)
    await scene.client.tokenizations.delete(made, request_id=deletion)
    with pytest.raises(errors.NotFound):
        await scene.client.tokenizations.delete(made, request_id=str(uuid.uuid4()))
    assert await scene.create("twice", request_id=request_id) == first


async def test_a_request_whose_answer_is_lost_happens_once(scene: Scene, calm: Rows) -> None:
    """The catalog is killed with requests in flight; each is sent again until it is answered."""
    requests = {f"lost-{number}": str(uuid.uuid4()) for number in range(8)}
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(scene.held(*WORKERS))
        sent = [asyncio.create_task(scene.replayed(variant, each)) for variant, each in requests.items()]
        await scene.killed("catalog")
        answers = await asyncio.gather(*sent)
    replayed = [await scene.create(variant, request_id=each) for variant, each in requests.items()]
    assert replayed == answers
    resources = [answer.name for answer in answers]
    jobs = await scene.rows("SELECT resource FROM jobs WHERE resource = ANY($1::text[])", resources)
    assert sorted(str(resource) for (resource,) in jobs) == sorted(resources)
    for variant in requests:
        assert scene.ids(await scene.wait(variant)) == calm
    await scene.at_rest()
