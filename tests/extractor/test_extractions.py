"""Extractions as records: created once, held, watched, stopped, retried and deleted."""

import asyncio
import uuid

import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.extractor.v1 import extractions_pb2, tasks_pb2
from services.extractor.server import tables
from services.extractor.server.migrations.schema import runner
from tests.catalog import harness as catalog_harness
from tests.extractor import harness
from tests.extractor.harness import expect_error, until
from tests.support import messages

TOKENIZATION = "datasets/docs/tokenizations/gpt2"
MAKE = "`polytok tokenize docs --model gpt2`"
MAKE_PACKED = "`polytok tokenize docs --model gpt2 --variant packed`"


async def test_from_queued_to_ready(extractor, tokenized):
    created = await extractor.create()
    assert created.name.startswith("extractions/docs-gpt2-")
    assert (created.tokenization, created.model_repo_id) == (TOKENIZATION, "/models/gpt2")
    assert created.tokenization_manifest_digest == "d" * 64
    assert created.parameters.storage_format == extractions_pb2.NUMBER_FORMAT_FLOAT32
    assert await extractor.holders() == [created.name]
    ready = await extractor.finish(created)
    assert (ready.state, ready.progress, ready.expected_tokens) == (harness.READY, 100, 40)
    assert ready.statistics.num_tokens == 32
    assert ready.statistics.seconds > 0
    names = {key.rpartition("/")[2] for key in extractor.storage.list("extractions")}
    assert {"state.json", "dataset_info.json", "polytok.json", "statistics.safetensors", "blocks.safetensors"} < names
    # What was held is let go of.
    await until(lambda: _is_empty(extractor.holders()), "the hold has ended")


async def _is_empty(found):
    return not await found


async def test_weights_of_the_registered_commit(extractor, tokenized):
    created = await extractor.create("one")
    assert created.model_revision == "c" * 40
    task = (await extractor.take(created.job)).payload(tasks_pb2.PlanExtractionTask)
    assert task.order.model_revision == "c" * 40


async def test_every_task_uses_the_planned_weights(extractor, tokenized):
    created = await extractor.create("one")
    plan = await extractor.take(created.job)
    found = plan.plan()
    found.weights_fingerprint = "f" * 64
    await plan.complete(found)
    assert (await extractor.get(created.name)).weights_fingerprint == "f" * 64
    for _ in found.ranges:
        each = await extractor.take(created.job)
        assert each.payload(tasks_pb2.ExtractRangeTask).order.weights_fingerprint == "f" * 64
        await each.complete(each.range())
    publishing = await extractor.take(created.job)
    assert publishing.payload(tasks_pb2.PublishExtractionTask).order.weights_fingerprint == "f" * 64
    # Another plan finds its own.
    await publishing.fail("INTERNAL", "It is so.")
    retried = await extractor.retry(created.name)
    assert retried.weights_fingerprint == ""
    plan = await extractor.take(retried.job)
    assert plan.payload(tasks_pb2.PlanExtractionTask).order.weights_fingerprint == ""


async def test_create_is_idempotent(extractor, tokenized):
    request_id = str(uuid.uuid4())
    first = await extractor.create(request_id=request_id)
    assert (await extractor.create()).uid == first.uid
    assert (await extractor.create(context_size=4)).uid != first.uid
    await extractor.finish(first)
    # The answer to a request is given again as it was, even if nothing of it could be made now.
    await extractor.delete(first.name)
    assert await extractor.create(request_id=request_id) == first


async def test_name_with_other_parameters(extractor, tokenized):
    await extractor.create("mine")
    async with expect_error(errors.AlreadyExists, "RESOURCE_EXISTS") as caught:
        await extractor.create(
            "mine", context_size=4, exclude_special_tokens=True, compute_format="NUMBER_FORMAT_BFLOAT16"
        )
    assert caught[0].metadata["resource"] == "extractions/mine"
    differing = {
        "compute_format": ("float32", "bfloat16"),
        "context_size": (8, 4),
        "exclude_special_tokens": ("unset", True),
        "storage_format": ("float32", "bfloat16"),
    }
    found = dict(each.split(" ", 1) for each in caught[0].metadata["differing"].split("; "))
    assert found.keys() == differing.keys()
    for name, values in differing.items():
        messages.check_names(found[name], *values)
        messages.check_names(caught[0].message, name, *values)


async def test_wildcard_layer(extractor, tokenized):
    created = await extractor.create(hooks=["blocks.*.hook_mlp_out", "blocks.1.hook_mlp_out"])
    assert list(created.parameters.hooks) == ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]


@pytest.mark.parametrize(
    ("asked", "reason", "field", "names"),
    [
        (
            {"hooks": ["blocks.2.hook_resid_post"]},
            "HOOK_NOT_FOUND",
            "parameters.hooks[0]",
            ["blocks.2.hook_resid_post", "layer 2", "models/gpt2", 0, 1],
        ),
        ({"hooks": ["a b"]}, "HOOK_NOT_FOUND", "parameters.hooks[0]", ["'a b'", "blocks.0.hook_resid_post"]),
        ({"context_size": 65}, "MODEL_MISFIT", "parameters.context_size", ["context_size", 65, "models/gpt2", 64]),
    ],
)
async def test_invalid_parameters(extractor, tokenized, asked, reason, field, names):
    async with expect_error(errors.InvalidArgument, reason) as caught:
        await extractor.create(**asked)
    assert [each.field for each in caught[0].violations] == [field]
    messages.check_names(caught[0].message, *names)
    assert await extractor.holders() == []


@pytest.mark.parametrize(
    ("asked", "resource", "names"),
    [
        (
            {"variant": "packed"},
            f"{TOKENIZATION}~packed",
            [f"{TOKENIZATION}~packed", MAKE_PACKED, "`polytok tokenization list docs`"],
        ),
        ({"model": "gpt3"}, "models/gpt3", ["'gpt3'", "'gpt2'", "`polytok model list`"]),
    ],
)
async def test_missing_source(extractor, tokenized, asked, resource, names):
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await extractor.create(**asked)
    assert caught[0].metadata == {"resource": resource}
    messages.check_names(caught[0].message, *names)
    assert await extractor.holders() == []


async def test_tokenization_not_ready(extractor, catalog):
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await extractor.create()
    assert caught[0].metadata == {"resource": TOKENIZATION}
    messages.check_names(caught[0].message, TOKENIZATION, MAKE)
    await catalog.tokenize("docs", "gpt2", max_length=32)
    async with expect_error(errors.FailedPrecondition, "NOT_READY") as caught:
        await extractor.create()
    assert caught[0].metadata == {"resource": TOKENIZATION, "state": "QUEUED"}
    messages.check_names(caught[0].message, TOKENIZATION, "QUEUED", "`polytok tokenization watch docs/gpt2`")


async def test_tokenizer_mismatch(extractor, catalog, tokenized):
    from services.catalog.server import tables as catalog_tables

    async with catalog.database.transaction() as conn:
        await conn.execute(catalog_tables.models.update().values(tokenizer_fingerprint="f" * 64))
    async with expect_error(errors.FailedPrecondition, "MODEL_MISFIT") as caught:
        await extractor.create()
    assert caught[0].metadata == {"tokenization": TOKENIZATION, "model": "models/gpt2"}
    messages.check_names(caught[0].message, TOKENIZATION, "models/gpt2", "f" * 12, MAKE)


async def test_sequences_beyond_the_context(extractor, catalog, tokenized):
    from services.catalog.server import tables as catalog_tables

    async with catalog.database.transaction() as conn:
        await conn.execute(catalog_tables.models.update().values(context_length=16))
    async with expect_error(errors.InvalidArgument, "MODEL_MISFIT") as caught:
        await extractor.stub.CreateExtraction(
            extractions_pb2.CreateExtractionRequest(
                dataset="datasets/docs",
                model="models/gpt2",
                parameters=extractions_pb2.ExtractionParameters(hooks=[harness.HOOK]),
            )
        )
    assert [each.field for each in caught[0].violations] == ["parameters.context_size"]
    messages.check_names(caught[0].message, TOKENIZATION, 32, "models/gpt2", 16)


async def test_a_tokenization_being_read_cannot_be_deleted(extractor, catalog, tokenized):
    created = await extractor.create("mine")
    request = tokenizations_pb2.DeleteTokenizationRequest(name=tokenized)
    async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD") as caught:
        await catalog.tokenizations.DeleteTokenization(request)
    assert caught[0].metadata == {"resource": TOKENIZATION, "holders": "extractions/mine"}
    messages.check_names(caught[0].message, TOKENIZATION, "extractions/mine")
    assert (await extractor.cancel(created.name)).state == harness.CANCELLED
    await until(lambda: _is_empty(extractor.holders()), "the hold has ended")
    await catalog.tokenizations.DeleteTokenization(request)


async def test_another_process_renews_the_hold(
    extractor, catalog, tokenized, migrated_database_settings, messaging_settings, storage
):
    import sqlalchemy as sa

    from services.catalog.server import tables as catalog_tables

    created = await extractor.create("mine")
    holds = catalog_tables.tokenization_holds
    async with catalog.database.transaction() as conn:
        await conn.execute(holds.update().values(expires_at=sa.func.now()))
    async with harness.run_extractor(catalog, migrated_database_settings, messaging_settings, storage):

        async def renewed():
            statement = sa.select(holds.c.holder).where(holds.c.expires_at > sa.func.now())
            async with catalog.database.connection() as conn:
                return (await conn.execute(statement)).scalars().all() == [created.name]

        await until(renewed, "another process has renewed the hold")


async def test_cancel_then_retry(extractor, tokenized):
    created = await extractor.create()
    leased = await extractor.take(created.job)
    assert (await extractor.cancel(created.name)).state == harness.CANCELLED
    async with expect_error(errors.Aborted, "LEASE_LOST") as caught:
        await leased.complete(leased.plan())
    assert caught[0].metadata == {"task": leased.task_id, "epoch": "1"}
    again = await extractor.retry(created.name)
    assert again.job != created.job
    assert (await extractor.finish(again)).state == harness.READY
    async with expect_error(errors.FailedPrecondition, "WRONG_STATE"):
        await extractor.retry(created.name)
    async with expect_error(errors.FailedPrecondition, "WRONG_STATE"):
        await extractor.cancel(created.name)


async def test_retry_after_an_error_reads_the_current_tokenization(extractor, catalog, tokenized):
    created = await extractor.create()
    leased = await extractor.take(created.job)
    await leased.fail("RESOURCE_CHANGED", f"{TOKENIZATION} was deleted since this was created.")
    failed = await extractor.get(created.name)
    assert (failed.error_reason, failed.progress) == ("RESOURCE_CHANGED", 0)
    await until(lambda: _is_empty(extractor.holders()), "the hold has ended")
    await catalog.tokenizations.DeleteTokenization(tokenizations_pb2.DeleteTokenizationRequest(name=tokenized))
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await extractor.retry(created.name)
    await catalog_harness.FakeWorker(catalog).finish(await catalog.tokenize("docs", "gpt2", max_length=32))
    assert (await extractor.finish(await extractor.retry(created.name))).error_message == ""


async def test_delete_removes_files_and_hold(extractor, tokenized):
    created = await extractor.create()
    ready = await extractor.finish(created)
    async with expect_error(errors.Aborted, "ETAG_MISMATCH"):
        await extractor.delete(created.name, etag="other")
    await extractor.delete(created.name, etag=ready.etag)
    assert extractor.storage.list("extractions") == []
    running = await extractor.create("second")
    await extractor.take(running.job)
    await extractor.delete(running.name)
    await until(lambda: _is_empty(extractor.holders()), "the hold has ended")
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await extractor.get(running.name)
    assert caught[0].metadata == {"resource": "extractions/second"}
    messages.check_names(caught[0].message, "'second'", "`polytok extraction list`")


async def test_workers_share_ranges(extractor, tokenized):
    from polytok.extractor.v1 import tasks_pb2

    created = await extractor.create()
    plan = await extractor.take(created.job)
    await plan.complete(plan.plan())
    first, second = await extractor.take(created.job), await extractor.take(created.job)
    ranges = [each.payload(tasks_pb2.ExtractRangeTask) for each in (first, second)]
    assert [(each.ordinal, each.range.first_row) for each in ranges] == [(0, 0), (1, 2)]
    await second.complete(second.range())
    halfway = await extractor.get(created.name)
    assert (halfway.progress, halfway.state) == (
        pytest.approx(50 * 30 / 31),
        extractions_pb2.Extraction.STATE_PROCESSING,
    )
    # A result of files in another's folder is refused: they could be another's.
    foreign = first.range()
    foreign.files[0].key = "extractions/other/a.arrow"
    async with expect_error(errors.Internal, "INTERNAL") as caught:
        await first.complete(foreign)
    messages.check_names(caught[0].message, "'extractions/other/a.arrow'", f"'extractions/{created.uid}'")
    await first.complete(first.range())
    publishing = await extractor.take(created.job)
    await publishing.complete(publishing.publication())
    ready = await extractor.get(created.name)
    assert ready.state == harness.READY


async def test_lists_by_page_and_filter(extractor, tokenized):
    created = [await extractor.create(f"e{number}") for number in range(3)]
    await extractor.finish(created[0])
    request = extractions_pb2.ListExtractionsRequest(page_size=2)
    first = await extractor.stub.ListExtractions(request)
    second = await extractor.stub.ListExtractions(
        extractions_pb2.ListExtractionsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [each.name for each in (*first.extractions, *second.extractions)] == [each.name for each in created[::-1]]
    for fields, count in (
        ({"states": [harness.READY]}, 1),
        ({"dataset": "datasets/other"}, 0),
        ({"model": "models/gpt2"}, 3),
    ):
        found = await extractor.stub.ListExtractions(extractions_pb2.ListExtractionsRequest(**fields))
        assert len(found.extractions) == count


async def test_watch_ends_with_the_extraction(extractor, tokenized):
    created = await extractor.create()
    seen = []

    async def follow():
        request = extractions_pb2.WatchExtractionRequest(name=created.name)
        async for response in extractor.stub.WatchExtraction(request):
            seen.append(response.extraction)  # noqa: PERF401  the versions so far are looked at meanwhile

    watching = asyncio.create_task(follow())
    await until(lambda: _any(seen), "the first version has come")
    await extractor.finish(created)
    await asyncio.wait_for(watching, 60)
    assert seen[-1].state == harness.READY
    assert [each.progress for each in seen] == sorted(each.progress for each in seen)


async def _any(found):
    return bool(found)


async def test_unreferenced_files_are_swept(extractor, tokenized):
    ready = await extractor.finish(await extractor.create())
    before = extractor.storage.list("extractions")
    orphans = [f"extractions/{uuid.uuid4()}/a.arrow", f"extractions/{ready.uid}/late.arrow"]
    for key in orphans:
        extractor.storage.write_bytes(key, b"x")
    swept = await extractor.extractor.garbage_collector.collect()
    # The ranges' statistics are merged by now, and nobody's.
    assert set(orphans) - set(swept) == {orphans[0]}
    left = extractor.storage.list("extractions")
    assert set(left) < set(before)
    assert not any(key.endswith(".statistics") for key in left)
    assert len(left) == 7


async def test_estimate(extractor, tokenized):
    request = extractions_pb2.EstimateExtractionRequest(
        dataset="datasets/docs",
        model="models/gpt2",
        parameters=extractions_pb2.ExtractionParameters(hooks=[harness.HOOK]),
    )

    async def job():
        import sqlalchemy as sa

        async with extractor.extractor.database.connection() as conn:
            return (await conn.execute(sa.select(tables.jobs.jobs.c.id))).scalars().first()

    asked = asyncio.create_task(_call(extractor.stub.EstimateExtraction, request))
    await until(job, "the trial is asked for")
    from polytok.extractor.v1 import tasks_pb2

    leased = await extractor.take(str(await job()))
    assert leased.payload(tasks_pb2.EstimateExtractionTask).order.tokenization == TOKENIZATION
    answer = extractions_pb2.EstimateExtractionResponse(num_tokens=30, device="cpu")
    await leased.complete(tasks_pb2.EstimateExtractionResult(estimate=answer))
    assert await asked == answer
    assert await job() is None
    assert await extractor.holders() == []
    # What stops the trial is what the caller hears.
    asked = asyncio.create_task(_call(extractor.stub.EstimateExtraction, request))
    await until(job, "the trial is asked for")
    violation = errors.FieldViolation("parameters.hooks[0]", "is not there")
    sent = errors.InvalidArgument("No.", reason="HOOK_NOT_FOUND", metadata={"hook": "x"}, violations=[violation])
    await (await extractor.take(str(await job()))).fail_as(sent)
    async with expect_error(errors.InvalidArgument, "HOOK_NOT_FOUND") as caught:
        await asked
    assert vars(caught[0]) == vars(sent)


async def _call(method, request):
    return await method(request, timeout=150)


async def test_the_migrations_make_the_tables(migrated_database_settings):
    await asyncio.to_thread(runner.upgrade, migrated_database_settings)
    await asyncio.to_thread(runner.check, migrated_database_settings)
    await asyncio.to_thread(runner.downgrade, migrated_database_settings, "base")
    await asyncio.to_thread(runner.upgrade, migrated_database_settings)
    await asyncio.to_thread(runner.check, migrated_database_settings)
