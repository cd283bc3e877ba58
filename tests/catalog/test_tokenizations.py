"""Tokenizations: creation, the way to READY, failure, cancel, retry, deletion, and what users read."""

import asyncio
import datetime
import uuid

import pytest
import sqlalchemy as sa

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, models_pb2, tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.catalog.server import tables
from services.catalog.server.domain import columns
from tests.catalog import harness
from tests.catalog.harness import expect_error
from tests.support.messages import check_names

State = tokenizations_pb2.Tokenization.State
Packing = tokenizations_pb2.Packing
NAME = "datasets/docs/tokenizations/gpt2"


@pytest.fixture
async def ready(catalog, worker):
    """Return a catalog with a dataset and a model that are READY."""
    await catalog.create_dataset("docs")
    await catalog.create_model("gpt2")
    await worker.ingest("docs")
    await worker.inspect("gpt2")
    return catalog


async def _delete(catalog, name=NAME, **fields):
    await catalog.tokenizations.DeleteTokenization(tokenizations_pb2.DeleteTokenizationRequest(name=name, **fields))


async def _cancel(catalog, name=NAME):
    return await catalog.tokenizations.CancelTokenization(tokenizations_pb2.CancelTokenizationRequest(name=name))


async def _retry(catalog, name=NAME):
    return await catalog.tokenizations.RetryTokenization(tokenizations_pb2.RetryTokenizationRequest(name=name))


async def _list(catalog, parent="datasets/-", **fields):
    request = tokenizations_pb2.ListTokenizationsRequest(parent=parent, **fields)
    return await catalog.tokenizations.ListTokenizations(request)


async def test_create_returns_a_queued_tokenization(ready):
    created = await ready.tokenize("docs", "gpt2")
    dataset = await ready.dataset("docs")
    assert created.name == NAME
    assert created.uid.startswith(f"tok_{dataset.uid}_m_")
    assert (created.dataset, created.model, created.variant) == ("datasets/docs", "models/gpt2", "")
    assert created.state == State.STATE_QUEUED
    assert created.progress == 0
    assert created.parameters.text_column == "text"
    assert created.parameters.max_length == 2048
    assert created.tokenizer_repo_id == "/models/gpt2"
    assert created.tokenizer_fingerprint == harness.fingerprint("gpt2")
    assert created.vocab_size == 1000
    assert (
        created.tokenized_path
        == f"{dataset.raw_path}_tokenized_{created.uid.partition('_m_')[1][1:]}" + (created.uid.partition("_m_")[2])
    )
    assert not created.HasField("statistics")
    assert await ready.tokenization(NAME) == created
    assert await ready.tokenization(f"datasets/{dataset.uid}/tokenizations/gpt2") == created


async def test_tokenization_becomes_ready(ready, worker):
    created = await ready.tokenize("docs", "gpt2", max_length=128)
    shard = await worker.take(created.job)
    assert (shard.lease.kind, shard.lease.resource) == ("tokenize.shard", NAME)
    task = shard.payload(tasks_pb2.TokenizeShardTask)
    assert (task.ordinal, task.count) == (0, 1)
    assert task.parameters == created.parameters
    assert task.tokenizer == tasks_pb2.TokenizerReference(
        repo_id="/models/gpt2", fingerprint=harness.fingerprint("gpt2")
    )
    assert task.shard.text_bytes == 5
    assert ready.storage.sha256(task.shard.key) == task.shard.sha256
    processing = await ready.tokenization(NAME)
    assert processing.state == State.STATE_PROCESSING
    assert processing.HasField("start_time")
    await shard.extend(1, 2)
    assert (await ready.tokenization(NAME)).progress == pytest.approx(50 / 1.08)
    result = shard.shard_result()
    await shard.complete(result)
    assert (await ready.tokenization(NAME)).progress == pytest.approx(100 / 1.08), "files are checked"

    publishing = await worker.take(created.job)
    task = publishing.payload(tasks_pb2.PublishTokenizationTask)
    assert task.name == NAME
    assert list(task.shards) == [result]
    assert task.dataset_fingerprint == (await ready.dataset("docs")).fingerprint
    assert task.vocab_size == 1000
    await publishing.complete(publishing.publication())

    done = await ready.tokenization(NAME)
    assert (done.state, done.progress) == (State.STATE_READY, 100)
    assert done.statistics == tokenizations_pb2.TokenizationStatistics(
        num_tokens=30, num_sequences=3, avg_seq_length=10, num_files=1, engine="reference"
    )
    assert done.manifest_digest == "d" * 64
    assert done.HasField("complete_time")
    assert done.etag != created.etag
    assert ready.storage.uri(task.tokenized_key) == done.tokenized_path
    left = {key.rpartition("/")[2] for key in ready.storage.list(task.tokenized_key)}
    assert left == {"state.json", "dataset_info.json", "polytok.json", result.files[0].key.rpartition("/")[2]}


async def test_one_task_for_each_shard_in_order(ready, worker):
    dataset = await ready.dataset("docs")
    async with ready.database.transaction() as conn:
        await conn.execute(
            tables.dataset_shards.insert(),
            [
                {
                    "dataset_id": uuid.UUID(dataset.uid),
                    "ordinal": ordinal,
                    "key": f"datasets/{dataset.uid}/raw/part-{ordinal}.arrow",
                    "sha256": "0",
                    "num_rows": 1,
                    "text_bytes": 5,
                }
                for ordinal in range(1, 4)
            ],
        )
    created = await ready.tokenize("docs", "gpt2")
    leased = [await worker.take(created.job) for _ in range(4)]
    for each in reversed(leased):
        await each.complete(each.shard_result())
    publishing = await worker.take(created.job)
    files = [shard.files[0].key for shard in publishing.payload(tasks_pb2.PublishTokenizationTask).shards]
    assert files == [each.shard_result().files[0].key for each in leased]
    async with ready.database.connection() as conn:
        keys = await conn.execute(
            sa.select(tables.tokenization_files.c.key).order_by(tables.tokenization_files.c.ordinal)
        )
        assert list(keys.scalars()) == files


async def test_same_parameters_return_the_existing_one(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    assert await ready.tokenize("docs", "gpt2") == created
    assert await ready.tokenize("docs", "gpt2", max_length=2048, text_column="text") == created
    await worker.finish(created)
    again = await ready.tokenize("docs", "gpt2")
    assert (again.uid, again.state) == (created.uid, State.STATE_READY)
    assert await ready.count(tables.dataset_tokenizations) == 1


async def test_other_parameters_are_refused_with_differences(ready):
    await ready.tokenize("docs", "gpt2", max_length=512)
    async with expect_error(errors.AlreadyExists, "RESOURCE_EXISTS") as caught:
        await ready.tokenize("docs", "gpt2", max_length=1024)
    assert caught[0].metadata["resource"] == NAME
    check_names(caught[0].metadata["differs"], "max_length", 512, 1024)
    check_names(caught[0].message, NAME, "max_length", 512, 1024, "--variant")
    variant = await ready.tokenize("docs", "gpt2", variant="long", max_length=1024)
    assert variant.name == f"{NAME}~long"
    assert variant.uid.endswith("_long")
    assert variant.tokenized_path.endswith("_long")
    assert await ready.count(tables.dataset_tokenizations) == 2


async def test_concurrent_creates_make_one(ready):
    created = await asyncio.gather(*(ready.tokenize("docs", "gpt2") for _ in range(8)))
    assert len({each.job for each in created}) == 1
    assert await ready.count(tables.dataset_tokenizations) == 1


async def test_unknown_dataset_model_and_tokenization(ready):
    for dataset, model, resource, names in (
        ("doc", "gpt2", "datasets/doc", ("'doc'", "'docs'", "`polytok dataset list`")),
        ("docs", "gpt3", "models/gpt3", ("'gpt3'", "'gpt2'", "`polytok model list`")),
    ):
        async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
            await ready.tokenize(dataset, model)
        assert caught[0].metadata == {"resource": resource}
        check_names(caught[0].message, *names)
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await ready.tokenization(NAME)
    assert caught[0].metadata == {"resource": NAME}
    check_names(caught[0].message, NAME, "`polytok tokenize docs --model gpt2`", "`polytok tokenization list docs`")
    await ready.tokenize("docs", "gpt2", variant="packed")
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await ready.tokenization(f"{NAME}~packd")
    assert caught[0].metadata == {"resource": f"{NAME}~packd"}
    check_names(caught[0].message, "'gpt2~packed'", "`polytok tokenize docs --model gpt2 --variant packd`")


async def test_dataset_and_model_must_be_ready(catalog, worker):
    dataset = await catalog.create_dataset("docs")
    await catalog.create_model("gpt2")
    async with expect_error(errors.FailedPrecondition, "NOT_READY") as caught:
        await catalog.tokenize("docs", "gpt2")
    assert caught[0].metadata == {"resource": "datasets/docs", "state": "PENDING"}
    check_names(caught[0].message, "datasets/docs", "PENDING", "`polytok dataset watch docs`")
    await (await worker.take(dataset.job)).fail("SOURCE_NOT_FOUND", "/corpus/docs.jsonl does not exist.")
    async with expect_error(errors.FailedPrecondition, "NOT_READY") as caught:
        await catalog.tokenize("docs", "gpt2")
    assert caught[0].metadata == {"resource": "datasets/docs", "state": "ERROR"}
    check_names(caught[0].message, "datasets/docs", "ERROR", "`polytok dataset retry docs`")
    assert "/corpus/docs.jsonl does not exist." in caught[0].message, "the error of the record itself"
    await catalog.create_dataset("more")
    await worker.ingest("more")
    async with expect_error(errors.FailedPrecondition, "NOT_READY") as caught:
        await catalog.tokenize("more", "gpt2")
    assert caught[0].metadata == {"resource": "models/gpt2", "state": "PENDING"}
    check_names(caught[0].message, "models/gpt2", "PENDING", "`polytok model watch gpt2`")
    assert await catalog.count(tables.dataset_tokenizations) == 0


async def test_empty_dataset_is_refused(catalog, worker):
    await catalog.create_dataset("docs")
    await catalog.create_model("gpt2")
    await worker.ingest("docs", rows=0)
    await worker.inspect("gpt2")
    async with expect_error(errors.FailedPrecondition, "SOURCE_EMPTY") as caught:
        await catalog.tokenize("docs", "gpt2")
    assert caught[0].metadata == {"resource": "datasets/docs"}
    check_names(caught[0].message, "datasets/docs")


async def test_dataset_of_an_earlier_version_is_refused(ready, worker):
    """Migration takes such datasets over; they have rows and no list of shards."""
    cancelled = await ready.tokenize("docs", "gpt2", variant="v", max_length=5)
    await _cancel(ready, cancelled.name)
    async with ready.database.transaction() as conn:
        await conn.execute(tables.dataset_shards.delete())
        await conn.execute(tables.datasets.update().values(num_shards=0, fingerprint=""))
    for call in (ready.tokenize("docs", "gpt2"), _retry(ready, cancelled.name)):
        async with expect_error(errors.FailedPrecondition, "NOT_READY") as caught:
            await call
        assert caught[0].metadata == {"resource": "datasets/docs"}
        check_names(caught[0].message, "datasets/docs", "earlier version")


async def test_columns_are_checked(ready):
    async with expect_error(errors.InvalidArgument, "COLUMN_NOT_FOUND") as caught:
        await ready.tokenize("docs", "gpt2", text_column="body")
    check_names(caught[0].message, "datasets/docs", "'body'", "id, text, label")
    assert caught[0].metadata == {"columns": "id, text, label"}
    async with expect_error(errors.InvalidArgument, "COLUMN_INVALID") as caught:
        await ready.tokenize("docs", "gpt2", text_column="label")
    assert caught[0].metadata == {"column": "label", "type": "int64"}
    check_names(caught[0].message, "'label'", "datasets/docs", "int64", "text")


@pytest.mark.parametrize("max_length", [0, -1, 1_000_000, 2049])
async def test_max_length_has_its_limits(ready, max_length):
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD") as caught:
        await ready.tokenize("docs", "gpt2", max_length=max_length)
    assert [violation.field for violation in caught[0].violations] == ["parameters.max_length"]
    assert await ready.count(tables.dataset_tokenizations) == 0


@pytest.mark.parametrize("parent", ["datasets/../x", "datasets/", "docs", "datasets/a/b"])
async def test_malformed_parents_are_refused(ready, parent):
    request = tokenizations_pb2.CreateTokenizationRequest(parent=parent, model="models/gpt2")
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD"):
        await ready.tokenizations.CreateTokenization(request)


async def test_failure_does_not_affect_others(ready, worker):
    before = await ready.dataset("docs")
    created = await ready.tokenize("docs", "gpt2")
    other = await ready.tokenize("docs", "gpt2", variant="other", max_length=10)
    leased = await worker.take(created.job)
    leased.shard_result()
    await leased.fail("COLUMN_INVALID", "Column 'text' of datasets/docs holds a null in row 17.")
    failed = await ready.tokenization(NAME)
    assert failed.state == State.STATE_ERROR
    assert failed.error_reason == "COLUMN_INVALID"
    assert failed.error_message == "Column 'text' of datasets/docs holds a null in row 17."
    assert await ready.dataset("docs") == before
    assert (await ready.tokenization(other.name)).state == State.STATE_QUEUED
    await worker.finish(other)
    assert (await ready.tokenization(other.name)).state == State.STATE_READY


async def test_retry_after_an_error_makes_a_new_job(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    leased = await worker.take(created.job)
    leftover = leased.shard_result().files[0].key
    assert await leased.fail("WORKER_LOST", "Killed.", retryable=True)
    leased = await worker.take(created.job)
    assert not await leased.fail("WORKER_LOST", "Killed.", retryable=True)
    failed = await ready.tokenization(NAME)
    assert failed.error_reason == "WORKER_LOST"
    check_names(failed.error_message, "Killed.", 2)
    # The same parameters return what exists, as it is: a retry is a call of its own.
    assert (await ready.tokenize("docs", "gpt2")).state == State.STATE_ERROR
    retried = await _retry(ready)
    assert retried.job != created.job
    assert (retried.state, retried.progress, retried.error_message) == (State.STATE_QUEUED, 0, "")
    assert not retried.HasField("start_time")
    assert not ready.storage.exists(leftover)
    await worker.finish(retried)
    assert (await ready.tokenization(NAME)).state == State.STATE_READY
    async with expect_error(errors.FailedPrecondition, "WRONG_STATE") as caught:
        await _retry(ready)
    assert caught[0].metadata == {"resource": NAME, "state": "READY"}
    check_names(caught[0].message, NAME, "READY", "ERROR", "CANCELLED")


async def test_cancel_fences_the_worker_and_removes_its_files(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    leased = await worker.take(created.job)
    result = leased.shard_result()
    cancelled = await _cancel(ready)
    assert cancelled.state == State.STATE_CANCELLED
    assert cancelled.HasField("complete_time")
    assert ready.storage.list(result.files[0].key.rpartition("/")[0]) == []
    async with expect_error(errors.Aborted, "LEASE_LOST"):
        await leased.complete(result)
    async with expect_error(errors.Aborted, "LEASE_LOST"):
        await leased.extend(1, 2)
    assert await _cancel(ready) == cancelled
    await worker.finish(await _retry(ready))
    async with expect_error(errors.FailedPrecondition, "WRONG_STATE") as caught:
        await _cancel(ready)
    assert caught[0].metadata == {"resource": NAME, "state": "READY"}
    check_names(caught[0].message, NAME, "READY", "QUEUED", "PROCESSING")


async def test_delete_while_processing_fences_the_worker(ready, worker):
    before = await ready.dataset("docs")
    created = await ready.tokenize("docs", "gpt2")
    leased = await worker.take(created.job)
    result = leased.shard_result()
    folder = result.files[0].key.rpartition("/")[0]
    jobs = await ready.count(tables.jobs.jobs)
    await _delete(ready)
    assert ready.storage.list(folder) == []
    assert await ready.count(tables.jobs.jobs) == jobs - 1
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await ready.tokenization(NAME)
    for late in (leased.complete(result), leased.extend(1, 2)):
        async with expect_error(errors.Aborted, "LEASE_LOST"):
            await late
    assert await ready.dataset("docs") == before


async def test_recreation_after_delete_shares_nothing(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    late = await worker.take(created.job)
    await _delete(ready)
    zombie = late.shard_result().files[0].key  # a worker that has not heard yet
    again = await ready.tokenize("docs", "gpt2")
    assert again.uid == created.uid
    assert not ready.storage.exists(zombie)
    await worker.finish(again)
    assert (await ready.tokenization(NAME)).state == State.STATE_READY
    # Files of the record that is READY now are safe from a deletion of the one before that comes to its end late.
    assert await ready.catalog.garbage_collector.collect() == []


async def test_delete_keeps_other_tokenizations(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    other = await ready.tokenize("docs", "gpt2", variant="other", max_length=10)
    await worker.finish(created)
    await worker.finish(other)
    files = ready.storage.list("datasets")
    async with expect_error(errors.Aborted, "ETAG_MISMATCH"):
        await _delete(ready, etag="stale")
    assert ready.storage.list("datasets") == files
    await _delete(ready, etag=(await ready.tokenization(NAME)).etag)
    left = ready.storage.list("datasets")
    assert {key.split("/")[2].rpartition("_")[2] for key in left} == {"raw", "other"}
    assert (await ready.tokenization(other.name)).state == State.STATE_READY


async def test_hold_prevents_deletion(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    await worker.finish(created)
    now = datetime.datetime.now(datetime.UTC)
    async with ready.database.transaction() as conn:
        await conn.execute(
            tables.tokenization_holds.insert().values(
                tokenization_id=created.uid, holder="extractions/e1", expires_at=now + datetime.timedelta(hours=1)
            )
        )
    refusals = (
        _delete(ready),
        ready.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/docs", force=True)),
        ready.models.DeleteModel(models_pb2.DeleteModelRequest(name="models/gpt2", force=True)),
    )
    for refusal in refusals:
        async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD") as caught:
            await refusal
        assert caught[0].metadata == {"resource": NAME, "holders": "extractions/e1"}
        check_names(caught[0].message, NAME, "extractions/e1")
    assert (await ready.tokenization(NAME)).state == State.STATE_READY
    assert ready.storage.exists(f"datasets/{(await ready.dataset('docs')).uid}/raw/state.json")
    async with ready.database.transaction() as conn:
        await conn.execute(tables.tokenization_holds.update().values(expires_at=now - datetime.timedelta(hours=1)))
    await _delete(ready)


async def test_foreign_files_are_not_published(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    leased = await worker.take(created.job)
    result = leased.shard_result()
    result.files[0].key = "datasets/another/raw/part.arrow"
    await leased.complete(result)
    failed = await ready.tokenization(NAME)
    assert (failed.state, failed.error_reason) == (State.STATE_ERROR, "INTERNAL")
    check_names(failed.error_message, "datasets/another/raw/part.arrow")
    assert await ready.count(tables.tokenization_files) == 0


async def test_lists_are_filtered_and_paged(ready, worker):
    await ready.create_dataset("more")
    await worker.ingest("more")
    first = await ready.tokenize("docs", "gpt2")
    second = await ready.tokenize("docs", "gpt2", variant="v", max_length=5)
    third = await ready.tokenize("more", "gpt2")
    await worker.finish(second)

    async def names(**fields):
        return [each.name for each in (await _list(ready, **fields)).tokenizations]

    assert await names() == [third.name, second.name, first.name]
    assert await names(parent="datasets/docs") == [second.name, first.name]
    assert await names(model="models/gpt2", states=[State.STATE_READY]) == [second.name]
    page = await _list(ready, page_size=2)
    assert len(page.tokenizations) == 2
    assert await names(page_token=page.next_page_token) == [first.name]
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await _list(ready, parent="datasets/dcos")
    assert caught[0].metadata == {"resource": "datasets/dcos"}
    check_names(caught[0].message, "'docs'")
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await _list(ready, model="models/gpt4")


async def test_packing_defaults_are_recorded(ready):
    created = await ready.tokenize("docs", "gpt2", packing=Packing())
    assert created.parameters == tokenizations_pb2.TokenizationParameters(
        text_column="text",
        column_choice=columns.CALLED_TEXT,
        max_length=2048,
        truncation="TRUNCATION_NONE",
        add_special_tokens=False,
        packing=Packing(begin_of_batch="BOUNDARY_BOS", begin_of_sequence="BOUNDARY_NONE", separator="BOUNDARY_BOS"),
    )


async def test_concurrent_delete_and_completion(ready, worker):
    for _ in range(5):
        created = await ready.tokenize("docs", "gpt2")
        await worker.tokenize_shard(created.job)
        leased = await worker.take(created.job)
        result = leased.publication()
        completed, _ = await asyncio.gather(leased.complete(result), _delete(ready), return_exceptions=True)
        assert completed is None or "LEASE_LOST" in str(harness.as_error(completed).reason)
        await ready.catalog.garbage_collector.collect()
        assert {key.split("/")[2] for key in ready.storage.list("datasets")} == {"raw"}
        assert await ready.count(tables.tokenization_files) == 0


async def test_invalid_regular_expression(ready):
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD") as caught:
        await ready.tokenize("docs", "gpt2", filters=tokenizations_pb2.Filters(keep_pattern="a("))
    assert [violation.field for violation in caught[0].violations] == ["parameters.filters.keep_pattern"]
    check_names(caught[0].message, "a(")
    kept = await ready.tokenize("docs", "gpt2", filters=tokenizations_pb2.Filters(keep_pattern="a()"))
    assert kept.parameters.filters.keep_pattern == "a()"
    async with expect_error(errors.AlreadyExists, "RESOURCE_EXISTS") as caught:
        await ready.tokenize("docs", "gpt2")
    check_names(caught[0].metadata["differs"], "filters.keep_pattern", "'a()'", "unset")
