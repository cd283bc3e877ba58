"""Holds on extractions: what a training reads is not deleted until the training ends, whatever dies meanwhile."""

import asyncio
import contextlib

import grpc.aio
import pytest
import sqlalchemy as sa
from google.protobuf import duration_pb2

from polytok import channels, errors
from polytok.extractor.v1 import extractions_pb2
from polytok.trainer.v1 import trainings_pb2
from services.extractor.server import tables
from services.extractor.server.migrations.schema import runner as extractor_runner
from services.extractor.server.repository import extractions
from services.records.queries import Lock
from services.trainer.server.migrations.schema import runner
from tests.catalog import locks
from tests.extractor import harness, trainer_harness
from tests.extractor.harness import expect_error, until
from tests.support import messages

MINE = "extractions/mine"


@pytest.fixture
async def ready(extractor, tokenized):
    """Return an extraction that is READY."""
    return await extractor.finish(await extractor.create("mine"))


@pytest.fixture
async def trainer(extractor, migrated_database_settings, messaging_settings):
    await asyncio.to_thread(runner.upgrade, migrated_database_settings)
    async with trainer_harness.run_trainer(extractor, migrated_database_settings, messaging_settings) as running:
        yield running


async def _hold(extractor, holder="trainings/t1", seconds=60, digest="", name=MINE):
    request = extractions_pb2.HoldExtractionRequest(
        name=name, holder=holder, ttl=duration_pb2.Duration(seconds=seconds), manifest_digest=digest
    )
    return await extractor.stub.HoldExtraction(request)


async def _release(extractor, holder="trainings/t1"):
    await extractor.stub.ReleaseExtraction(extractions_pb2.ReleaseExtractionRequest(name=MINE, holder=holder))


async def _let_go(extractor):
    async def nobody():
        return not await extractor.readers()

    await until(nobody, "the hold has ended")


async def _is_deleted(extractor):
    """Delete the extraction unless it is held."""
    try:
        await extractor.delete(MINE)
    except grpc.aio.AioRpcError as error:
        assert channels.from_rpc_error(error).reason == "RESOURCE_HELD"  # noqa: PT017  others are not awaited
        return False
    return True


async def test_delete_refuses_while_held(extractor, ready):
    held = await _hold(extractor, digest=ready.manifest_digest)
    await _hold(extractor, "trainings/t2")
    assert held.extraction == ready
    async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD") as caught:
        await extractor.delete(MINE)
    assert caught[0].metadata == {"resource": MINE, "holders": "trainings/t1, trainings/t2"}
    messages.check_names(caught[0].message, MINE, "trainings/t1", "trainings/t2")
    await _release(extractor)
    await _release(extractor, "trainings/t2")
    await extractor.delete(MINE)
    # Of what is gone there is nothing to release, and that is no error.
    await _release(extractor)


async def test_a_hold_is_prolonged_and_never_shortened(extractor, ready):
    first = await _hold(extractor, seconds=600)
    assert (await _hold(extractor, seconds=1)).expire_time == first.expire_time
    assert (await _hold(extractor, seconds=1200)).expire_time.seconds >= first.expire_time.seconds + 590
    assert await extractor.readers() == ["trainings/t1"]


async def test_only_what_is_ready_and_the_same_is_held(extractor, ready):
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await _hold(extractor, name="extractions/other")
    await extractor.delete(MINE)
    again = await extractor.create("mine")
    async with expect_error(errors.FailedPrecondition, "NOT_READY") as caught:
        await _hold(extractor)
    assert caught[0].metadata == {"resource": MINE, "state": "QUEUED"}
    messages.check_names(caught[0].message, MINE, "QUEUED", "`polytok extraction watch mine`")
    await extractor.finish(again)
    async with expect_error(errors.FailedPrecondition, "RESOURCE_CHANGED") as caught:
        await _hold(extractor, digest="0" * 64)
    _check_changed(caught[0])
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD"):
        await _hold(extractor, holder="nobody")


async def test_a_hold_whose_time_is_over_holds_nothing_and_is_swept(extractor, ready):
    await _hold(extractor)
    await _expire(extractor)
    await extractor.extractor.garbage_collector.collect()
    assert await extractor.readers() == []
    await _hold(extractor)
    await _expire(extractor)
    await extractor.delete(MINE)


async def _expire(extractor):
    async with extractor.extractor.database.transaction() as conn:
        await conn.execute(tables.extraction_holds.update().values(expires_at=sa.func.now()))


async def test_training_reads_the_token_selection_of_an_extraction(extractor, tokenized, trainer):
    asked = {"exclude_special_tokens": True, "excluded_token_ids": [7], "excluded_positions": [3, 0]}
    made = await extractor.finish(await extractor.create("mine", **asked))
    assert made.selection.context_size == 8
    assert list(made.selection.excluded_positions) == [0, 3]
    special = set(made.selection.excluded_token_ids) - {7}
    assert special
    created = await trainer.create("t1", extraction=MINE)
    assert created.lineage.selection == made.selection
    assert created.lineage.bos_token_id in special


async def test_a_training_holds_what_it_reads_until_it_ends(extractor, ready, trainer):
    created = await trainer.create("t1", extraction=MINE)
    assert await extractor.readers() == ["trainings/t1"]
    assert await extractor.holders() == ["trainings/t1"]
    async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD") as caught:
        await extractor.delete(MINE)
    assert caught[0].metadata == {"resource": MINE, "holders": "trainings/t1"}
    messages.check_names(caught[0].message, MINE, "trainings/t1")
    # A paused training goes on from where it was: it still needs what it reads.
    await trainer.pause(created.name)
    async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD"):
        await extractor.delete(MINE)
    await trainer.cancel(created.name)
    await _let_go(extractor)
    # Begun again, it holds again.
    await trainer.retry(created.name)
    assert await extractor.readers() == ["trainings/t1"]
    await trainer.delete(created.name)
    await until(lambda: _is_deleted(extractor), "the hold has ended")


async def test_a_training_on_what_is_gone_or_another_is_refused(extractor, ready, trainer):
    created = await trainer.create("t1", extraction=MINE)
    await trainer.cancel(created.name)
    await _let_go(extractor)
    await extractor.delete(MINE)
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await trainer.retry(created.name)
    await extractor.finish(await extractor.create("mine"))
    async with extractor.extractor.database.transaction() as conn:
        # Created again, with other content.
        await conn.execute(tables.extractions.update().values(manifest_digest="a" * 64))
    async with expect_error(errors.FailedPrecondition, "RESOURCE_CHANGED") as caught:
        await trainer.retry(created.name)
    _check_changed(caught[0])


def _check_changed(error):
    assert error.metadata == {"resource": MINE}
    messages.check_names(error.message, MINE, "trainings/t1")


async def test_a_hold_outlives_the_trainer_and_is_renewed(
    extractor, ready, trainer, migrated_database_settings, messaging_settings
):
    await trainer.create("t1", extraction=MINE)
    await _expire(extractor)
    async with trainer_harness.run_trainer(extractor, migrated_database_settings, messaging_settings):

        async def renewed():
            holds = tables.extraction_holds
            statement = sa.select(holds.c.holder).where(holds.c.expires_at > sa.func.now())
            async with extractor.extractor.database.connection() as conn:
                return (await conn.execute(statement)).scalars().all() == ["trainings/t1"]

        await until(renewed, "another process has renewed the hold")
        async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD"):
            await extractor.delete(MINE)


async def test_an_extractor_that_is_away_keeps_no_hold_at_the_catalog(
    catalog, tokenized, migrated_database_settings, messaging_settings, storage
):
    for schema in (extractor_runner, runner):
        await asyncio.to_thread(schema.upgrade, migrated_database_settings)
    services = (migrated_database_settings, messaging_settings)
    async with contextlib.AsyncExitStack() as stack:
        extractor = await stack.enter_async_context(harness.run_extractor(catalog, *services, storage))
        await extractor.finish(await extractor.create("mine"))
        async with trainer_harness.run_trainer(extractor, *services) as trainer:
            created = await trainer.create("t1", extraction=MINE)
            await stack.aclose()
            await trainer.cancel(created.name)

            async def released():
                return created.name not in await extractor.holders()

            await until(released, "the hold on the tokenization is released")
            # What could not be reported to the extractor is remembered.
            (kept,) = await trainer.ended()
            assert kept == created.name


@pytest.mark.parametrize("first", ["deletion", "training"])
async def test_concurrent_delete_and_training_have_one_winner(extractor, ready, trainer, first):
    calls = {"deletion": extractor.delete, "training": lambda name: trainer.create("t1", extraction=name)}
    second = next(name for name in calls if name != first)
    async with extractor.extractor.database.transaction() as conn:
        # Both have looked at the extraction, and wait for its row.
        await extractions.get(conn, "mine", Lock.CHANGE)
        asked = {first: asyncio.create_task(calls[first](MINE))}
        await locks.queued(extractor.catalog, 1)
        asked[second] = asyncio.create_task(calls[second](MINE))
        await locks.queued(extractor.catalog, 2)
    await asyncio.wait(asked.values())
    if asked["deletion"].exception() is None:
        async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
            await asked["training"]
        async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
            await trainer.get("trainings/t1")
    else:
        async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD"):
            await asked["deletion"]
        assert (await extractor.get(MINE)).state == harness.READY
        assert await extractor.readers() == [(await asked["training"]).name]


async def test_of_many_at_once_each_extraction_is_deleted_or_read(extractor, tokenized, trainer):
    names = [f"extractions/e{number}" for number in range(6)]
    for name in names:
        await extractor.finish(await extractor.create(name.partition("/")[2]))
    calls = [call for name in names for call in (extractor.delete(name), trainer.create(name[-2:], extraction=name))]
    await asyncio.gather(*calls, return_exceptions=True)
    left = await extractor.stub.ListExtractions(extractions_pb2.ListExtractionsRequest())
    listed = await trainer.stub.ListTrainings(trainings_pb2.ListTrainingsRequest())
    assert {each.source.extraction for each in listed.trainings} == {each.name for each in left.extractions}
    assert sorted(await extractor.readers()) == sorted(each.name for each in listed.trainings)
