"""Holds: a reader keeps a tokenization from being deleted, until the hold ends."""

import pytest
import sqlalchemy as sa
from google.protobuf import duration_pb2

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tokenizations_pb2
from services.catalog.server import tables
from tests.catalog.harness import expect_error
from tests.support.messages import check_names

NAME = "datasets/docs/tokenizations/gpt2"


@pytest.fixture
async def made(catalog, worker):
    """Return a READY tokenization."""
    await catalog.create_dataset("docs")
    await catalog.create_model("gpt2")
    await worker.ingest("docs")
    await worker.inspect("gpt2")
    created = await catalog.tokenize("docs", "gpt2")
    await worker.finish(created)
    return await catalog.tokenization(created.name)


async def _hold(catalog, holder="extractions/e1", seconds=60, digest="", name=NAME):
    request = tokenizations_pb2.HoldTokenizationRequest(
        name=name, holder=holder, ttl=duration_pb2.Duration(seconds=seconds), manifest_digest=digest
    )
    return await catalog.tokenizations.HoldTokenization(request)


async def _release(catalog, holder="extractions/e1"):
    request = tokenizations_pb2.ReleaseTokenizationRequest(name=NAME, holder=holder)
    await catalog.tokenizations.ReleaseTokenization(request)


async def _delete(catalog):
    await catalog.tokenizations.DeleteTokenization(tokenizations_pb2.DeleteTokenizationRequest(name=NAME))


async def test_held_tokenization_is_not_deleted(catalog, made):
    held = await _hold(catalog, digest=made.manifest_digest)
    await _hold(catalog, "trainings/t1")
    assert held.tokenization == made
    assert catalog.storage.uri(held.storage_key) == made.tokenized_path
    async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD") as caught:
        await _delete(catalog)
    assert caught[0].metadata == {"resource": NAME, "holders": "extractions/e1, trainings/t1"}
    check_names(caught[0].message, NAME, "extractions/e1", "trainings/t1")
    async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD"):
        await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/docs", force=True))
    await _release(catalog)
    await _release(catalog, "trainings/t1")
    await _delete(catalog)
    # Releasing a hold on a deleted tokenization is not an error.
    await _release(catalog)


async def test_hold_is_extended_and_never_shortened(catalog, made):
    first = await _hold(catalog, seconds=600)
    assert (await _hold(catalog, seconds=1)).expire_time == first.expire_time
    assert (await _hold(catalog, seconds=1200)).expire_time.seconds >= first.expire_time.seconds + 590
    assert await catalog.count(tables.tokenization_holds) == 1


async def test_expired_hold_is_swept(catalog, made):
    await _hold(catalog)
    async with catalog.database.transaction() as conn:
        await conn.execute(tables.tokenization_holds.update().values(expires_at=sa.func.now()))
    await catalog.catalog.garbage_collector.collect()
    assert await catalog.count(tables.tokenization_holds) == 0
    await _delete(catalog)


async def test_hold_needs_the_same_ready_tokenization(catalog, made, worker):
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await _hold(catalog, name="datasets/docs/tokenizations/gpt2~other")
    await _delete(catalog)
    again = await catalog.tokenize("docs", "gpt2")
    async with expect_error(errors.FailedPrecondition, "NOT_READY"):
        await _hold(catalog)
    await worker.finish(again)
    async with expect_error(errors.FailedPrecondition, "RESOURCE_CHANGED") as caught:
        await _hold(catalog, digest="0" * 64)
    assert caught[0].metadata == {"resource": NAME}
    check_names(caught[0].message, NAME, "extractions/e1")
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD"):
        await _hold(catalog, holder="nobody")
