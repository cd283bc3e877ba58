"""Watching: a snapshot, every change, live progress, and an end."""

import asyncio
import contextlib
import time

import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, models_pb2, tokenizations_pb2
from polytok.jobs.v1 import leases_pb2, messages_pb2
from services.records import watch
from services.runtime import messaging
from tests.catalog import harness
from tests.catalog.harness import expect_error
from tests.support.messages import check_names

State = tokenizations_pb2.Tokenization.State
NAME = "datasets/docs/tokenizations/gpt2"


@pytest.fixture
async def ready(catalog, worker):
    """Return a catalog with a dataset and a model that are READY."""
    await catalog.create_dataset("docs")
    await catalog.create_model("gpt2")
    await worker.ingest("docs")
    await worker.inspect("gpt2")
    return catalog


def _watch(catalog, name=NAME):
    stream = catalog.tokenizations.WatchTokenization(tokenizations_pb2.WatchTokenizationRequest(name=name))
    return aiter(stream)


async def _until(stream, condition):
    """Read on until the condition holds."""
    async with asyncio.timeout(60):
        while True:
            message = (await anext(stream)).tokenization
            if condition(message):
                return message


async def test_a_watch_shows_every_state_and_ends(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    stream = _watch(ready)
    assert (await anext(stream)).tokenization == created
    leased = await worker.take(created.job)
    await _until(stream, lambda each: each.state == State.STATE_PROCESSING)
    await leased.extend(1, 4)
    await _until(stream, lambda each: each.progress == pytest.approx(25 / 1.08))
    await leased.complete(leased.shard_result())
    await worker.publish(created.job)
    done = await _until(stream, lambda each: each.state == State.STATE_READY)
    assert done.progress == 100
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_terminal_record_is_shown_once(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    await worker.finish(created)
    assert [each.tokenization.state async for each in _watch(ready)] == [State.STATE_READY]


async def test_changes_arrive_without_polling(ready, worker, monkeypatch):
    monkeypatch.setattr(watch, "_POLL_SECONDS", 3600)
    created = await ready.tokenize("docs", "gpt2")
    stream = _watch(ready)
    await anext(stream)
    await worker.finish(created)
    await _until(stream, lambda each: each.state == State.STATE_READY)


async def test_live_progress_is_shown_and_never_goes_back(ready, worker, nats_client, messaging_settings):
    created = await ready.tokenize("docs", "gpt2")
    leased = await worker.take(created.job)
    stream = _watch(ready)
    await _until(stream, lambda each: each.state == State.STATE_PROCESSING)
    subject = messaging.Subjects(messaging_settings.namespace).progress(leased.task_id)

    async def publish(done):
        event = messages_pb2.ProgressEvent(
            task_id=leased.task_id,
            job_id=created.job,
            epoch=leased.lease.epoch,
            progress=leases_pb2.TaskProgress(done=done, total=100),
        )
        await nats_client.publish(subject, event.SerializeToString())

    async def keep_publishing():
        while True:
            await publish(40)
            await asyncio.sleep(0.05)

    # The hub may not have subscribed yet: what comes before is lost, as progress may be.
    publishing = asyncio.create_task(keep_publishing())
    try:
        await _until(stream, lambda each: each.progress == pytest.approx(40 / 1.08))
    finally:
        publishing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await publishing
    await publish(30)
    await leased.extend(10, 100)
    await publish(60)
    shown = []
    async with asyncio.timeout(60):
        async for each in stream:
            shown.append(each.tokenization.progress)
            if shown[-1] == pytest.approx(60 / 1.08):
                break
    assert min(shown) >= 37


async def test_stream_rate_is_limited(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    leased = await worker.take(created.job)
    began = time.monotonic()
    stream = _watch(ready)
    seen = []

    async def read():
        seen.extend([each.tokenization async for each in stream])

    reading = asyncio.create_task(read())
    for done in range(1, 60):
        await leased.extend(done, 60)
    await leased.complete(leased.shard_result())
    await worker.publish(created.job)
    await reading
    assert seen[-1].state == State.STATE_READY
    assert len(seen) <= (time.monotonic() - began) * 5 + 2


async def test_watch_of_a_deleted_record_ends(ready):
    await ready.tokenize("docs", "gpt2")
    stream = _watch(ready)
    await anext(stream)
    await ready.tokenizations.DeleteTokenization(tokenizations_pb2.DeleteTokenizationRequest(name=NAME))
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        async for _ in stream:
            pass
    check_names(caught[0].message, "deleted")


async def test_watch_of_an_unknown_dataset(catalog):
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await anext(_watch(catalog))
    assert caught[0].metadata == {"resource": "datasets/docs"}


async def test_watch_datasets_and_models(catalog, worker):
    await catalog.create_dataset("docs")
    await catalog.create_model("gpt2")

    async def states(stream, field):
        return [getattr(each, field).state async for each in stream]

    datasets = asyncio.create_task(
        states(catalog.datasets.WatchDataset(datasets_pb2.WatchDatasetRequest(name="datasets/docs")), "dataset")
    )
    models = asyncio.create_task(
        states(catalog.models.WatchModel(models_pb2.WatchModelRequest(name="models/gpt2")), "model")
    )
    await worker.ingest("docs")
    await worker.inspect("gpt2")
    async with asyncio.timeout(60):
        assert (await datasets)[-1] == datasets_pb2.Dataset.STATE_READY
        assert (await models)[-1] == models_pb2.Model.STATE_READY


async def test_changes_by_another_replica_are_seen(
    ready, worker, database, migrated_database_settings, messaging_settings, storage
):
    created = await ready.tokenize("docs", "gpt2")
    async with harness.run_catalog(database, migrated_database_settings, messaging_settings, storage) as other:
        stream = _watch(other)
        await anext(stream)
        await worker.finish(created)  # through the first
        await _until(stream, lambda each: each.state == State.STATE_READY)
