"""Datasets: creation, the way to READY, deletion, cancel and retry, and what users read when something is wrong."""

import asyncio
import uuid

import pytest
from google.protobuf import field_mask_pb2

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.server import tables
from tests.catalog import harness
from tests.catalog.harness import expect_error
from tests.support.messages import check_names

State = datasets_pb2.Dataset.State


async def test_create_returns_a_pending_dataset(catalog):
    created = await catalog.create_dataset("docs", metadata={"team": "sae"})
    assert created.name == "datasets/docs"
    assert str(uuid.UUID(created.uid)) == created.uid
    assert created.state == State.STATE_PENDING
    assert created.source == harness.file_source()
    assert created.raw_path == catalog.storage.uri(f"datasets/{created.uid}/raw")
    assert dict(created.metadata) == {"team": "sae"}
    assert created.etag
    assert created.job
    assert created.create_time.seconds > 0
    assert not created.HasField("complete_time")
    assert await catalog.dataset("docs") == created
    assert await catalog.dataset(created.uid) == created


async def test_same_source_returns_the_existing_dataset(catalog):
    created = await catalog.create_dataset("docs")
    assert await catalog.create_dataset("docs") == created
    assert await catalog.count(tables.datasets) == 1
    assert await catalog.count(tables.jobs.jobs) == 1


async def test_other_source_is_refused_with_differences(catalog):
    await catalog.create_dataset("docs", source=harness.file_source("/a.jsonl"))
    async with expect_error(errors.AlreadyExists, "RESOURCE_EXISTS") as caught:
        await catalog.create_dataset("docs", source=harness.file_source("/b.csv", format="FORMAT_CSV"))
    assert caught[0].metadata["resource"] == "datasets/docs"
    for text in (caught[0].message, caught[0].metadata["differs"]):
        check_names(text, "uris", "'/a.jsonl'", "'/b.csv'", "format", "unset", "'FORMAT_CSV'")
    hub = datasets_pb2.DatasetSource(hub=datasets_pb2.HubSource(repo_id="org/docs", split="train"))
    async with expect_error(errors.AlreadyExists, "RESOURCE_EXISTS") as caught:
        await catalog.create_dataset("docs", source=hub)
    check_names(caught[0].metadata["differs"], "source", "'files'", "'hub'")


async def test_concurrent_creates_make_one_dataset(catalog):
    created = await asyncio.gather(*(catalog.create_dataset("docs") for _ in range(8)))
    assert len({each.uid for each in created}) == 1
    assert await catalog.count(tables.jobs.jobs) == 1


UID = "0190aa4f-93cc-4a1f-8d0c-2f1d5a8f7c11"


@pytest.mark.parametrize("name", ["../etc", "a/b", "UPPER", "", "a" * 64, "a..b", "-a", "ä", UID])
async def test_bad_ids_are_refused(catalog, name):
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD") as caught:
        await catalog.create_dataset(name)
    assert "dataset_id" in [violation.field for violation in caught[0].violations]
    assert await catalog.count(tables.datasets) == 0


@pytest.mark.parametrize(
    ("source", "field", "name"),
    [
        (harness.file_source("docs.jsonl"), "files.uris[0]", "'docs.jsonl'"),
        (harness.file_source("/a\0b"), "files.uris[0]", "NUL"),
        (
            datasets_pb2.DatasetSource(hub=datasets_pb2.HubSource(repo_id="../docs", split="train")),
            "hub.repo_id",
            "'../docs'",
        ),
        (datasets_pb2.DatasetSource(hub=datasets_pb2.HubSource(repo_id="a/b", split="\0")), "hub.split", "NUL"),
    ],
)
async def test_sources_that_no_worker_can_open_are_refused(catalog, source, field, name):
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD") as caught:
        await catalog.create_dataset("docs", source=source)
    assert [violation.field for violation in caught[0].violations] == [f"dataset.source.{field}"]
    check_names(caught[0].message, f"dataset.source.{field}", name)
    assert await catalog.count(tables.datasets) == 0


async def test_metadata_with_nul_is_refused(catalog):
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD"):
        await catalog.create_dataset("docs", metadata={"a": "\0"})


async def test_unknown_dataset_suggests_close_names(catalog):
    await catalog.create_dataset("python-docs")
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await catalog.dataset("pyton-docs")
    check_names(caught[0].message, "'pyton-docs'", "'python-docs'", "`polytok dataset list`")
    assert caught[0].metadata == {"resource": "datasets/pyton-docs"}


async def test_ingestion_becomes_ready(catalog, worker):
    created = await catalog.create_dataset("docs")
    plan = await worker.take(created.job)
    assert plan.lease.kind == "ingest.plan"
    assert plan.lease.resource == "datasets/docs"
    assert plan.payload(tasks_pb2.PlanIngestTask).source == created.source
    assert (await catalog.dataset("docs")).state == State.STATE_DOWNLOADING
    parts = [
        tasks_pb2.IngestPart(file=tasks_pb2.FilePart(uri=f"/corpus/{name}.jsonl", size_bytes=size))
        for name, size in (("a", 100), ("b", 300))
    ]
    await plan.complete(tasks_pb2.PlanIngestResult(parts=parts))
    assert (await catalog.dataset("docs")).state == State.STATE_PROCESSING

    raw_key = f"datasets/{created.uid}/raw"
    shards, columns = [], [datasets_pb2.Column(name="text", type="string")]
    for ordinal, part in enumerate(parts):
        leased = await worker.take(created.job)
        expected = tasks_pb2.ReadPartTask(part=part, raw_key=raw_key, ordinal=ordinal, shard_bytes=1024)
        assert leased.payload(tasks_pb2.ReadPartTask) == expected
        key = f"{raw_key}/part-{ordinal:05d}-00000-{leased.tag}.arrow"
        digest = catalog.storage.write_bytes(key, b"rows")
        shards.append(tasks_pb2.RawShard(key=key, num_rows=2, size_bytes=4, sha256=digest, text_bytes=7))
        await leased.complete(tasks_pb2.ReadPartResult(shards=[shards[-1]], columns=columns))
        if ordinal == 0:
            assert (await catalog.dataset("docs")).progress == pytest.approx(25 / 1.1), "what was read is checked"

    publishing = await worker.take(created.job)
    task = publishing.payload(tasks_pb2.PublishDatasetTask)
    assert [shard for result in task.parts for shard in result.shards] == shards
    staged = publishing.stage(raw_key, "state.json", b'{"ok": 1}')
    await publishing.complete(
        tasks_pb2.PublishDatasetResult(
            shards=shards,
            columns=columns,
            num_rows=4,
            size_bytes=8,
            fingerprint="a" * 64,
            features_json='{"text": {"dtype": "string"}}',
            staged_files=[staged],
        )
    )
    ready = await catalog.dataset("docs")
    assert ready.state == State.STATE_READY
    assert ready.progress == 100
    assert (ready.num_samples, ready.size_bytes, ready.num_shards) == (4, 8, 2)
    assert list(ready.columns) == columns
    assert ready.fingerprint == "a" * 64
    assert ready.HasField("complete_time")
    assert catalog.storage.read_bytes(f"{raw_key}/state.json") == b'{"ok": 1}'
    assert not catalog.storage.exists(staged.staged_key)


async def test_commit_of_the_source_is_recorded(catalog, worker):
    source = datasets_pb2.HubSource(repo_id="org/docs", split="train")
    created = await catalog.create_dataset("docs", source=datasets_pb2.DatasetSource(hub=source))
    plan = await worker.take(created.job)
    pinned = datasets_pb2.HubSource(repo_id="org/docs", split="train", revision="c" * 40)
    part = tasks_pb2.IngestPart(hub=tasks_pb2.HubPart(source=pinned, count=1))
    await plan.complete(tasks_pb2.PlanIngestResult(parts=[part]))
    found = await catalog.dataset("docs")
    assert (found.commit, found.source.hub.revision) == ("c" * 40, "")
    # The source is what was asked for: asking for it again answers this dataset.
    again = await catalog.create_dataset("docs", source=datasets_pb2.DatasetSource(hub=source))
    assert again.uid == created.uid


async def test_failed_ingestion_keeps_its_error(catalog, worker):
    created = await catalog.create_dataset("docs")
    plan = await worker.take(created.job)
    assert not await plan.fail("SOURCE_NOT_FOUND", "/corpus/docs.jsonl does not exist.")
    failed = await catalog.dataset("docs")
    assert failed.state == State.STATE_ERROR
    assert failed.error_reason == "SOURCE_NOT_FOUND"
    assert failed.error_message == "/corpus/docs.jsonl does not exist."
    assert failed.HasField("complete_time")


async def test_empty_source_is_an_error(catalog, worker):
    created = await catalog.create_dataset("docs")
    plan = await worker.take(created.job)
    await plan.complete(tasks_pb2.PlanIngestResult())
    failed = await catalog.dataset("docs")
    assert failed.error_reason == "SOURCE_EMPTY"
    check_names(failed.error_message, "datasets/docs")


async def test_files_outside_the_folder_are_not_published(catalog, worker):
    created = await catalog.create_dataset("docs")
    await (await worker.take(created.job)).complete(
        tasks_pb2.PlanIngestResult(parts=[tasks_pb2.IngestPart(file=tasks_pb2.FilePart(uri="/a", size_bytes=1))])
    )
    await (await worker.take(created.job)).complete(tasks_pb2.ReadPartResult())
    leased = await worker.take(created.job)
    staged = leased.stage("elsewhere", "state.json", b"{}")
    await leased.complete(tasks_pb2.PublishDatasetResult(staged_files=[staged]))
    failed = await catalog.dataset("docs")
    assert (failed.state, failed.error_reason) == (State.STATE_ERROR, "INTERNAL")
    assert "'elsewhere/state.json." in failed.error_message
    assert not catalog.storage.exists("elsewhere/state.json")


async def test_changed_staged_files_are_not_published(catalog, worker):
    created = await catalog.create_dataset("docs")
    await (await worker.take(created.job)).complete(
        tasks_pb2.PlanIngestResult(parts=[tasks_pb2.IngestPart(file=tasks_pb2.FilePart(uri="/a", size_bytes=1))])
    )
    await (await worker.take(created.job)).complete(tasks_pb2.ReadPartResult())
    leased = await worker.take(created.job)
    staged = leased.stage(f"datasets/{created.uid}/raw", "state.json", b"{}")
    catalog.storage.write_bytes(staged.staged_key, b"{ }")
    await leased.complete(tasks_pb2.PublishDatasetResult(staged_files=[staged]))
    failed = await catalog.dataset("docs")
    assert (failed.state, failed.error_reason) == (State.STATE_ERROR, "CHECKSUM_MISMATCH")


async def test_retry_after_cancel_makes_a_new_job(catalog, worker):
    created = await catalog.create_dataset("docs")
    plan = await worker.take(created.job)
    name = datasets_pb2.CancelDatasetRequest(name="datasets/docs")
    cancelled = await catalog.datasets.CancelDataset(name)
    assert cancelled.state == State.STATE_CANCELLED
    assert await catalog.datasets.CancelDataset(name) == cancelled
    async with expect_error(errors.Aborted, "LEASE_LOST"):
        await plan.complete(tasks_pb2.PlanIngestResult())
    retried = await catalog.datasets.RetryDataset(datasets_pb2.RetryDatasetRequest(name="datasets/docs"))
    assert retried.state == State.STATE_PENDING
    assert retried.job not in {"", created.job}
    assert retried.uid == created.uid
    await worker.ingest("docs")
    assert (await catalog.dataset("docs")).state == State.STATE_READY


async def test_states_for_cancel_and_retry(catalog, worker):
    await catalog.create_dataset("docs")
    async with expect_error(errors.FailedPrecondition, "WRONG_STATE") as caught:
        await catalog.datasets.RetryDataset(datasets_pb2.RetryDatasetRequest(name="datasets/docs"))
    assert caught[0].metadata == {"resource": "datasets/docs", "state": "PENDING"}
    check_names(caught[0].message, "datasets/docs", "PENDING", "ERROR", "CANCELLED")
    await worker.ingest("docs")
    async with expect_error(errors.FailedPrecondition, "WRONG_STATE") as caught:
        await catalog.datasets.CancelDataset(datasets_pb2.CancelDatasetRequest(name="datasets/docs"))
    assert caught[0].metadata == {"resource": "datasets/docs", "state": "READY"}
    check_names(caught[0].message, "datasets/docs", "READY", "PENDING", "DOWNLOADING", "PROCESSING")


async def test_update_changes_metadata_only(catalog):
    created = await catalog.create_dataset("docs", metadata={"a": "1"})
    changed = datasets_pb2.Dataset(name="datasets/docs", metadata={"b": "2"}, num_samples=7, etag=created.etag)
    updated = await catalog.datasets.UpdateDataset(datasets_pb2.UpdateDatasetRequest(dataset=changed))
    assert dict(updated.metadata) == {"b": "2"}
    assert updated.num_samples == 0
    assert updated.etag != created.etag
    async with expect_error(errors.Aborted, "ETAG_MISMATCH") as caught:
        await catalog.datasets.UpdateDataset(datasets_pb2.UpdateDatasetRequest(dataset=changed))
    assert caught[0].metadata == {"resource": "datasets/docs"}
    mask = field_mask_pb2.FieldMask(paths=["num_samples"])
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD") as caught:
        await catalog.datasets.UpdateDataset(datasets_pb2.UpdateDatasetRequest(dataset=changed, update_mask=mask))
    assert [violation.field for violation in caught[0].violations] == ["update_mask"]
    check_names(caught[0].message, "update_mask", "'num_samples'", "'metadata'")


async def test_update_keeps_the_limits_on_metadata(catalog):
    await catalog.create_dataset("docs")
    for metadata in ({"k" * 64: "v"}, {"": "v"}, {"k": "v" * 1025}, {str(i): "" for i in range(65)}):
        changed = datasets_pb2.Dataset(name="datasets/docs", metadata=metadata)
        async with expect_error(errors.InvalidArgument, "INVALID_FIELD"):
            await catalog.datasets.UpdateDataset(datasets_pb2.UpdateDatasetRequest(dataset=changed))


async def test_delete_removes_record_files_and_jobs(catalog, worker):
    created = await catalog.create_dataset("docs")
    await worker.ingest("docs")
    assert catalog.storage.list(f"datasets/{created.uid}")
    etag = datasets_pb2.DeleteDatasetRequest(name="datasets/docs", etag="stale")
    async with expect_error(errors.Aborted, "ETAG_MISMATCH"):
        await catalog.datasets.DeleteDataset(etag)
    await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/docs"))
    assert catalog.storage.list("datasets") == []
    for table in (tables.datasets, tables.dataset_shards, tables.jobs.jobs, tables.jobs.tasks, tables.jobs.outbox):
        assert await catalog.count(table) == 0
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/docs"))


async def test_delete_keeps_a_shared_folder(catalog, worker):
    """An earlier version let datasets share a folder."""
    for name in ("a", "b"):
        await catalog.create_dataset(name)
        await worker.ingest(name)
    async with catalog.database.transaction() as conn:
        await conn.execute(tables.datasets.update().values(raw_path="corpora/docs"))
    catalog.storage.write_bytes("corpora/docs/part.arrow", b"rows")
    await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/a"))
    assert catalog.storage.exists("corpora/docs/part.arrow")
    await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/b"))
    assert catalog.storage.list("corpora") == []


async def test_delete_during_ingestion_fences_the_worker(catalog, worker):
    created = await catalog.create_dataset("docs")
    plan = await worker.take(created.job)
    await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/docs"))
    async with expect_error(errors.Aborted, "LEASE_LOST"):
        await plan.complete(tasks_pb2.PlanIngestResult())
    assert await catalog.count(tables.jobs.jobs) == 0


async def test_delete_with_tokenizations_needs_force(catalog, worker):
    await catalog.create_dataset("docs")
    await catalog.create_model("gpt2")
    await worker.ingest("docs")
    await worker.inspect("gpt2")
    tokenization = await catalog.tokenize("docs", "gpt2")
    await worker.finish(tokenization)
    async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD") as caught:
        await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/docs"))
    assert caught[0].metadata == {"resource": "datasets/docs", "holders": tokenization.name}
    check_names(caught[0].message, "datasets/docs", 1, tokenization.name, "`polytok dataset delete docs --force`")
    await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/docs", force=True))
    assert catalog.storage.list("datasets") == []
    assert await catalog.count(tables.dataset_tokenizations) == 0
    assert await catalog.count(tables.tokenization_files) == 0


async def test_lists_are_paged_newest_first(catalog, worker):
    created = [await catalog.create_dataset(f"docs-{number}") for number in range(5)]
    await worker.ingest("docs-2")
    listed, token = [], ""
    while True:
        page = await catalog.datasets.ListDatasets(datasets_pb2.ListDatasetsRequest(page_size=2, page_token=token))
        assert len(page.datasets) <= 2
        listed += [dataset.uid for dataset in page.datasets]
        token = page.next_page_token
        if not token:
            break
    assert listed == [dataset.uid for dataset in reversed(created)]
    ready = await catalog.datasets.ListDatasets(datasets_pb2.ListDatasetsRequest(states=[State.STATE_READY]))
    assert [dataset.name for dataset in ready.datasets] == ["datasets/docs-2"]


async def test_page_tokens_belong_to_their_list(catalog):
    for number in range(3):
        await catalog.create_dataset(f"docs-{number}")
    page = await catalog.datasets.ListDatasets(datasets_pb2.ListDatasetsRequest(page_size=1))
    for request in (
        datasets_pb2.ListDatasetsRequest(page_token="nonsense"),
        datasets_pb2.ListDatasetsRequest(page_token=page.next_page_token, states=[State.STATE_READY]),
    ):
        async with expect_error(errors.InvalidArgument, "INVALID_FIELD") as caught:
            await catalog.datasets.ListDatasets(request)
        assert caught[0].violations[0].field == "page_token"
