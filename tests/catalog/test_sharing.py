"""Tokenizations of one dataset by tokenizers of the same content: one makes the files, all have them."""

import asyncio
import contextlib
import uuid
from collections.abc import Sequence

import grpc.aio
import pytest
import sqlalchemy as sa

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.catalog.server import tables
from services.catalog.server.repository.tokenizations import tokenizations
from services.records.queries import Lock
from tests.catalog import harness, locks

READY = tokenizations_pb2.Tokenization.STATE_READY
QUEUED = tokenizations_pb2.Tokenization.STATE_QUEUED
MODELS = ("gpt2", "gpt2-medium", "gpt2-xl")


def _name(model: str) -> str:
    return f"datasets/docs/tokenizations/{model}"


@pytest.fixture
async def models(catalog, worker):
    """Return a catalog with a dataset, three models of one tokenizer, and one of another."""
    await catalog.create_dataset("docs")
    await worker.ingest("docs")
    for model in MODELS:
        await catalog.create_model(model)
        await worker.inspect(model, tokenizer="gpt2")
    await catalog.create_model("llama2")
    await worker.inspect("llama2")
    return catalog


@pytest.fixture
async def ready(models, worker):
    """Return the first of them tokenized."""
    await worker.finish(await models.tokenize("docs", "gpt2"))
    return models


async def _settled(catalog, model: str, wanted: int) -> tokenizations_pb2.Tokenization:
    async with asyncio.timeout(60):
        while True:
            found = await catalog.tokenization(_name(model))
            if found.state == wanted and (found.job or wanted != QUEUED):
                return found
            await asyncio.sleep(0.02)


async def _at_work(catalog, models: Sequence[str]) -> tokenizations_pb2.Tokenization:
    """Return the first of them that has a job."""
    async with asyncio.timeout(60):
        while True:
            for model in models:
                if (found := await catalog.tokenization(_name(model))).job:
                    return found
            await asyncio.sleep(0.02)


async def _delete(catalog, model: str) -> None:
    await catalog.tokenizations.DeleteTokenization(tokenizations_pb2.DeleteTokenizationRequest(name=_name(model)))


async def _cancel(catalog, model: str) -> tokenizations_pb2.Tokenization:
    return await catalog.tokenizations.CancelTokenization(
        tokenizations_pb2.CancelTokenizationRequest(name=_name(model))
    )


async def _keys(catalog, model: str) -> list[str]:
    record = await catalog.tokenization(_name(model))
    async with catalog.database.connection() as conn:
        return [file.key for file in await tokenizations.files(conn, record.uid)]


async def test_the_same_tokenizer_is_ready_at_once(ready) -> None:
    first = await ready.tokenization(_name("gpt2"))
    jobs = await ready.count(tables.jobs.jobs)
    second = await ready.tokenize("docs", "gpt2-medium")
    assert second.state == READY
    assert (second.progress, second.job, second.shared_from) == (100.0, "", _name("gpt2"))
    assert (second.tokenized_path, second.manifest_digest) == (first.tokenized_path, first.manifest_digest)
    assert second.statistics == first.statistics
    assert second.uid != first.uid
    assert second.HasField("complete_time")
    assert await _keys(ready, "gpt2-medium") == await _keys(ready, "gpt2") != []
    assert await ready.count(tables.jobs.jobs) == jobs
    resolved = await ready.tokenizations.ResolveTokenization(
        tokenizations_pb2.ResolveTokenizationRequest(dataset="datasets/docs", model="models/gpt2-medium")
    )
    assert resolved.tokenization.tokenized_path == first.tokenized_path
    # One that shares with one that shares has them from the maker.
    assert (await ready.tokenize("docs", "gpt2-xl")).shared_from == _name("gpt2")
    watched = [
        reply.tokenization.state
        async for reply in ready.tokenizations.WatchTokenization(
            tokenizations_pb2.WatchTokenizationRequest(name=_name("gpt2-medium"))
        )
    ]
    assert watched == [READY]


@pytest.mark.parametrize(
    ("model", "variant", "parameters"),
    [("gpt2-medium", "", {"max_length": 7}), ("llama2", "", {}), ("gpt2", "short", {"max_length": 7})],
)
async def test_what_differs_is_made(ready, model, variant, parameters) -> None:
    made = await ready.tokenize("docs", model, variant, **parameters)
    assert (made.state, made.shared_from) == (QUEUED, "")
    assert made.job


async def test_named_column_equals_the_chosen_one(ready) -> None:
    named = await ready.tokenize("docs", "gpt2-medium", text_column="text")
    assert named.parameters != (await ready.tokenization(_name("gpt2"))).parameters
    assert named.state == READY


async def test_another_dataset_shares_nothing(ready, worker) -> None:
    await ready.create_dataset("more")
    await worker.ingest("more")
    assert (await ready.tokenize("more", "gpt2-medium")).state == QUEUED


async def test_files_go_with_the_last_sharer(ready) -> None:
    await ready.tokenize("docs", "gpt2-medium")
    files = await _keys(ready, "gpt2")
    await _delete(ready, "gpt2")
    left = await ready.tokenization(_name("gpt2-medium"))
    assert (left.state, left.shared_from) == (READY, _name("gpt2"))
    assert await _keys(ready, "gpt2-medium") == files
    assert await ready.catalog.garbage_collector.collect() == []
    assert all(ready.storage.exists(key) for key in files)
    await _delete(ready, "gpt2-medium")
    assert not any(ready.storage.exists(key) for key in files)
    assert ready.storage.list(files[0].rpartition("/")[0]) == []


async def test_recreation_gets_another_folder(ready, worker) -> None:
    shared = await ready.tokenize("docs", "gpt2-medium")
    await _delete(ready, "gpt2")
    again = await ready.tokenize("docs", "gpt2", max_length=5)
    assert again.tokenized_path != shared.tokenized_path
    await worker.finish(again)
    assert len({*await _keys(ready, "gpt2"), *await _keys(ready, "gpt2-medium")}) == 2
    assert all(ready.storage.exists(key) for key in await _keys(ready, "gpt2-medium"))
    await _delete(ready, "gpt2-medium")
    assert await ready.catalog.garbage_collector.collect() == []
    assert (await ready.tokenization(_name("gpt2"))).state == READY
    assert all(ready.storage.exists(key) for key in await _keys(ready, "gpt2"))


async def test_later_tokenizations_wait_for_the_first(models, worker) -> None:
    first = await models.tokenize("docs", "gpt2")
    second, third = [await models.tokenize("docs", model) for model in MODELS[1:]]
    assert (second.state, second.job, second.shared_from) == (QUEUED, "", _name("gpt2"))
    assert (third.state, third.job) == (QUEUED, "")
    assert await models.tokenize("docs", "gpt2-medium") == second
    await worker.finish(first)
    for model in MODELS[1:]:
        found = await _settled(models, model, READY)
        assert found.manifest_digest == (await models.tokenization(_name("gpt2"))).manifest_digest
    assert await models.count(tables.jobs.jobs) == 6  # a dataset, four models, one tokenization


@pytest.mark.parametrize("end", ["fail", "cancel", "delete"])
async def test_waiting_tokenization_runs_when_the_first_fails(models, worker, end) -> None:
    first = await models.tokenize("docs", "gpt2")
    await models.tokenize("docs", "gpt2-medium")
    if end == "fail":
        await (await worker.take(first.job)).fail("INTERNAL", "A defect.")
    else:
        await (_cancel if end == "cancel" else _delete)(models, "gpt2")
    own = await _settled(models, "gpt2-medium", QUEUED)
    assert own.shared_from == ""
    await worker.finish(own)
    assert (await _settled(models, "gpt2-medium", READY)).shared_from == ""
    if end != "delete":
        # A retry finds the other's files.
        retried = await models.tokenizations.RetryTokenization(
            tokenizations_pb2.RetryTokenizationRequest(name=_name("gpt2"))
        )
        assert (retried.state, retried.shared_from) == (READY, _name("gpt2-medium"))
        assert retried.error_message == ""


@pytest.mark.long
async def test_one_of_several_waiting_runs_when_the_first_fails(models, worker) -> None:
    await models.tokenize("docs", "gpt2")
    for model in MODELS[1:]:
        await models.tokenize("docs", model)
    await _delete(models, "gpt2")
    # Mostly the one that waited longest; another, if they were just being looked at when the first was deleted.
    own = await _at_work(models, MODELS[1:])
    (other,) = {_name(model) for model in MODELS[1:]} - {own.name}
    assert (await models.tokenization(other)).job == ""
    await worker.finish(own)
    assert (await _settled(models, other.rpartition("/")[2], READY)).shared_from == own.name


async def test_waiting_tokenization_can_be_cancelled(models, worker) -> None:
    first = await models.tokenize("docs", "gpt2")
    for model in MODELS[1:]:
        await models.tokenize("docs", model)
    cancelled = await _cancel(models, "gpt2-medium")
    assert cancelled.state == tokenizations_pb2.Tokenization.STATE_CANCELLED
    assert (await _cancel(models, "gpt2-medium")).etag == cancelled.etag
    await _delete(models, "gpt2-xl")
    await worker.finish(first)
    await models.catalog.waiting.resolve_pending()
    assert (await models.tokenization(_name("gpt2-medium"))).etag == cancelled.etag
    async with harness.expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await models.tokenization(_name("gpt2-xl"))


async def test_concurrent_creates_make_the_files_once(models, worker) -> None:
    made = await asyncio.gather(*(models.tokenize("docs", model) for model in MODELS))
    at_work = [each for each in made if each.job]
    assert len(at_work) == 1
    await worker.finish(at_work[0])
    for model in MODELS:
        await _settled(models, model, READY)
    assert len({key for model in MODELS for key in await _keys(models, model)}) == 1


async def test_request_id_returns_the_same_answer(ready) -> None:
    request = tokenizations_pb2.CreateTokenizationRequest(
        parent="datasets/docs", model="models/gpt2-medium", request_id=str(uuid.uuid4())
    )
    answers = [await ready.tokenizations.CreateTokenization(request) for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("first", ["delete", "create"])
async def test_concurrent_delete_and_create(ready, first) -> None:
    """Whichever comes first, the new one ends with files that are there."""
    files = await _keys(ready, "gpt2")
    uid = (await ready.tokenization(_name("gpt2"))).uid
    async with ready.database.transaction() as conn:
        # Both wait for this row.
        await tokenizations.find_by_uid(conn, uid, Lock.CHANGE)
        calls = {"delete": _delete(ready, "gpt2"), "create": ready.tokenize("docs", "gpt2-medium")}
        order = [first, *(calls.keys() - {first})]
        running = []
        for number, call in enumerate(order):
            running.append(asyncio.create_task(calls[call]))
            await locks.queued(ready, number + 1)
    await asyncio.gather(*running)
    found = await ready.tokenization(_name("gpt2-medium"))
    if found.state == READY:
        assert all(ready.storage.exists(key) for key in files)
        assert await _keys(ready, "gpt2-medium") == files
    else:
        assert found.job
        assert not any(ready.storage.exists(key) for key in files)


@pytest.mark.long
async def test_many_creates_and_deletes_leave_no_partial_files(ready) -> None:
    async def come_and_go(model: str) -> None:
        for _ in range(6):
            await ready.tokenize("docs", model)
            # Another round for the same model may have deleted it.
            with contextlib.suppress(grpc.aio.AioRpcError):
                await _delete(ready, model)

    await asyncio.gather(*(come_and_go(model) for model in (*MODELS, *MODELS)))
    await ready.catalog.garbage_collector.collect()
    for model in MODELS:
        with contextlib.suppress(grpc.aio.AioRpcError):
            assert all(ready.storage.exists(key) for key in await _keys(ready, model))
    listed = [key for key in ready.storage.list("datasets") if "_tokenized_" in key]
    async with ready.database.connection() as conn:
        known = set((await conn.execute(sa.select(tables.tokenization_files.c.key))).scalars())
    assert {key for key in listed if key.endswith(".arrow")} == known


async def test_no_sharing_before_the_end_of_a_rollout(ready) -> None:
    async with ready.database.transaction() as conn:
        await conn.execute(
            sa.text("ALTER TABLE tokenization_files ADD CONSTRAINT uq_tokenization_files_key UNIQUE (key)")
        )
    second = await ready.tokenize("docs", "gpt2-medium")
    assert (second.state, second.shared_from) == (QUEUED, "")
    assert second.job
