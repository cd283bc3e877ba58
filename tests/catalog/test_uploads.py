"""Rows that are sent: on disk and checked before there is a dataset, gone without a trace if they break off."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import TYPE_CHECKING, Any

import grpc.aio
import pyarrow as pa
import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest import plan_task
from services.catalog.server import tables
from services.catalog.server.service import upload_files
from tests.catalog import harness
from tests.catalog.harness import expect_error
from tests.support.messages import check_names

if TYPE_CHECKING:
    from collections.abc import Callable

Request = datasets_pb2.UploadDatasetRequest
SCHEMA = pa.schema({"text": pa.string(), "n": pa.int64()})
BATCHES = [
    pa.RecordBatch.from_pylist([{"text": f"row {start + place}", "n": place} for place in range(4)], SCHEMA)
    for start in range(0, 12, 4)
]


def begun(name: str, schema: pa.Schema = SCHEMA, **fields: Any) -> Request:
    begin = datasets_pb2.UploadBegin(dataset_id=name, arrow_schema=schema.serialize().to_pybytes(), **fields)
    return Request(begin=begin)


def sent(batch: pa.RecordBatch) -> Request:
    return Request(batch=batch.serialize().to_pybytes())


def ended(rows: int = 12, batches: int = 3) -> Request:
    return Request(end=datasets_pb2.UploadEnd(num_rows=rows, num_batches=batches))


def whole(name: str, **fields: Any) -> list[Request]:
    return [begun(name, **fields), *map(sent, BATCHES), ended()]


def stored(catalog: harness.CatalogHarness) -> list[str]:
    return catalog.storage.list("datasets")


async def test_uploaded_rows_are_stored_and_ingested(
    catalog: harness.CatalogHarness, worker: harness.FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_files, "_FILE_BYTES", 1)  # a file a batch
    made = await catalog.datasets.UploadDataset(iter(whole("rows", metadata={"team": "sae"})))
    assert made.state == datasets_pb2.Dataset.STATE_PENDING
    assert dict(made.metadata) == {"team": "sae"}
    assert (await catalog.dataset("rows")) == made
    source = made.source.upload
    payload = [SCHEMA.serialize().to_pybytes(), *(batch.serialize().to_pybytes() for batch in BATCHES)]
    assert source.sha256 == hashlib.sha256(b"".join(payload)).hexdigest()
    assert (source.num_rows, source.size_bytes) == (12, sum(map(len, payload)))
    folder = f"datasets/{made.uid}/upload"
    assert stored(catalog) == [f"{folder}/{file.name}" for file in source.files]
    for file, batch in zip(source.files, BATCHES, strict=True):
        data = catalog.storage.read_bytes(f"{folder}/{file.name}")
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)
        assert pa.ipc.open_stream(data).read_all().equals(pa.Table.from_batches([batch]))
        assert file.num_rows == batch.num_rows
    leased = await worker.take(made.job)
    parts = plan_task.plan(leased.payload(tasks_pb2.PlanIngestTask)).parts
    assert [(part.upload.key, part.upload.first_row) for part in parts] == [
        (f"{folder}/{file.name}", first) for file, first in zip(source.files, (0, 4, 8), strict=True)
    ]


async def test_the_same_rows_make_the_same_dataset(catalog: harness.CatalogHarness) -> None:
    first = await catalog.datasets.UploadDataset(iter(whole("rows")))
    files = stored(catalog)
    assert await catalog.datasets.UploadDataset(iter(whole("rows"))) == first
    async with expect_error(errors.AlreadyExists, "RESOURCE_EXISTS") as caught:
        await catalog.datasets.UploadDataset(iter([begun("rows"), sent(BATCHES[0]), ended(4, 1)]))
    check_names(caught[0].metadata["differs"], "num_rows", 12, 4)
    async with expect_error(errors.AlreadyExists, "RESOURCE_EXISTS"):
        await catalog.create_dataset("rows")
    await catalog.create_dataset("files")
    async with expect_error(errors.AlreadyExists, "RESOURCE_EXISTS"):
        await catalog.datasets.UploadDataset(iter(whole("files")))
    assert stored(catalog) == files
    assert await catalog.count(tables.datasets) == 2


async def test_repeated_request_id_is_answered_at_once(catalog: harness.CatalogHarness) -> None:
    request_id = str(uuid.uuid4())
    first = await catalog.datasets.UploadDataset(iter(whole("rows", request_id=request_id)))
    # Before the rows are sent again.
    assert await catalog.datasets.UploadDataset(iter([begun("rows", request_id=request_id)])) == first
    async with expect_error(errors.InvalidArgument, "REQUEST_ID_REUSED"):
        await catalog.datasets.UploadDataset(iter(whole("other", request_id=request_id)))
    assert await catalog.count(tables.datasets) == 1


async def test_concurrent_uploads_make_one_dataset(catalog: harness.CatalogHarness) -> None:
    answers = await asyncio.gather(*(catalog.datasets.UploadDataset(iter(whole("rows"))) for _ in range(4)))
    assert len({answer.uid for answer in answers}) == 1
    assert stored(catalog) == [f"datasets/{answers[0].uid}/upload/00000.arrow"]


def compressed() -> bytes:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=options) as stream:
        stream.write_batch(BATCHES[0])
    return sink.getvalue().to_pybytes()[len(SCHEMA.serialize()) : -8]


@pytest.mark.parametrize(
    ("requests", "reason", "field", "names"),
    [
        ([], "INVALID_FIELD", "begin", ("first",)),
        ([sent(BATCHES[0])], "INVALID_FIELD", "begin", ("first",)),
        ([begun("x")], "INVALID_FIELD", "end", ("last", "missing")),
        ([begun("x"), sent(BATCHES[0]), ended(5, 1)], "SOURCE_INVALID", "end", (5, 4, 1)),
        ([begun("x"), ended(0, 0)], "SOURCE_EMPTY", "", ("rows",)),
        ([begun("x"), begun("x")], "INVALID_FIELD", "begin", ("first",)),
        ([begun("x"), sent(BATCHES[0]), ended(4, 1), ended()], "INVALID_FIELD", "end", ("last",)),
        ([begun("x", pa.schema([]))], "SOURCE_INVALID", "begin.arrow_schema", ("columns",)),
        (
            [begun("x", pa.schema([("a", pa.int8()), ("a", pa.int8())]))],
            "SOURCE_INVALID",
            "begin.arrow_schema",
            ("'a'",),
        ),
        (
            [begun("x", pa.schema([("a", pa.list_(pa.dictionary(pa.int8(), pa.string())))]))],
            "SOURCE_INVALID",
            "begin.arrow_schema",
            ("'a'", "dictionary-encoded"),
        ),
        (
            [Request(begin=datasets_pb2.UploadBegin(dataset_id="x", arrow_schema=b"no schema, but bytes"))],
            "SOURCE_INVALID",
            "begin.arrow_schema",
            (),
        ),
        ([begun("x"), Request(batch=b"\xff" * 40)], "SOURCE_INVALID", "batch 0", ()),
        ([begun("x"), Request(batch=b"\xff\xff\xff\xff\x10\0\0\0" + b"\xee" * 16)], "SOURCE_INVALID", "batch 0", ()),
        ([begun("x"), Request(batch=sent(BATCHES[0]).batch + b"more")], "SOURCE_INVALID", "batch 0", ("whole",)),
        ([begun("x"), Request(batch=sent(BATCHES[0]).batch[:-8])], "SOURCE_INVALID", "batch 0", ("whole",)),
        ([begun("x"), Request(batch=compressed())], "SOURCE_INVALID", "batch 0", ("compressed",)),
        (
            [begun("x"), sent(BATCHES[0]), Request(batch=SCHEMA.serialize().to_pybytes())],
            "SOURCE_INVALID",
            "batch 1",
            (),
        ),
    ],
)
async def test_malformed_uploads_are_refused(
    catalog: harness.CatalogHarness, requests: list[Request], reason: str, field: str, names: tuple[object, ...]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await catalog.datasets.UploadDataset(iter(requests))
    found = harness.as_error(caught.value)
    assert isinstance(found, errors.InvalidArgument)
    assert found.reason == reason
    assert [violation.field for violation in found.violations] == [field] * bool(field)
    check_names(found.message, field, *names)
    assert stored(catalog) == []
    assert await catalog.count(tables.datasets) == 0


async def test_names_and_metadata_are_validated(catalog: harness.CatalogHarness) -> None:
    for bad in (begun("../x"), begun("x", metadata={"k" * 64: "v"}), begun("x", request_id="no uuid")):
        async with expect_error(errors.InvalidArgument, "INVALID_FIELD"):
            await catalog.datasets.UploadDataset(iter([bad, *whole("x")[1:]]))
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD") as caught:
        await catalog.create_dataset(
            "x", source=datasets_pb2.DatasetSource(upload=datasets_pb2.UploadSource(files=[{"name": "../../etc"}]))
        )
    assert [violation.field for violation in caught[0].violations] == ["dataset.source.upload"]
    check_names(caught[0].message, "UploadDataset")
    assert stored(catalog) == []


async def test_oversized_upload_is_refused(catalog: harness.CatalogHarness) -> None:
    # tests.catalog.harness runs it with a limit.
    batch = pa.RecordBatch.from_pylist([{"text": "x" * harness.UPLOAD_BYTES, "n": 1}], SCHEMA)
    async with expect_error(errors.ResourceExhausted, "STORAGE_FAILED") as caught:
        await catalog.datasets.UploadDataset(iter([begun("x"), sent(BATCHES[0]), sent(batch), ended(5, 2)]))
    check_names(caught[0].message, "POLYTOK_CATALOG_UPLOAD_BYTES")
    assert caught[0].retryable is False
    assert stored(catalog) == []


async def test_interrupted_upload_leaves_nothing(catalog: harness.CatalogHarness) -> None:
    cut = asyncio.Event()

    async def requests() -> Any:
        yield begun("rows")
        yield sent(BATCHES[0])
        await cut.wait()

    call = catalog.datasets.UploadDataset(requests())
    await _until(lambda: len(stored(catalog)) == 1)
    call.cancel()
    await _until(lambda: stored(catalog) == [])
    cut.set()
    assert await catalog.count(tables.datasets) == 0


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  files send no events
            await asyncio.sleep(0.01)


async def test_abandoned_uploads_are_swept(catalog: harness.CatalogHarness) -> None:
    folder = f"datasets/{uuid.uuid4()}/upload"
    garbage_collector = catalog.catalog.garbage_collector
    garbage_collector._settings = garbage_collector._settings.model_copy(update={"garbage_grace_seconds": 3600.0})
    catalog.storage.write_bytes(f"{folder}/00000.arrow", b"rows")
    assert await garbage_collector.collect() == []
    garbage_collector._settings = garbage_collector._settings.model_copy(update={"garbage_grace_seconds": 1e-9})
    catalog.storage.write_bytes(f"{folder}/00001.arrow", b"rows")
    # It was an orphan before, and has grown since.
    assert await garbage_collector.collect() == []
    assert await garbage_collector.collect() == [folder.rpartition("/")[0]]
    assert stored(catalog) == []


async def test_uploaded_rows_are_kept_until_ingested(
    catalog: harness.CatalogHarness, worker: harness.FakeWorker
) -> None:
    made = await catalog.datasets.UploadDataset(iter(whole("rows")))
    kept = stored(catalog)
    await catalog.datasets.CancelDataset(datasets_pb2.CancelDatasetRequest(name="datasets/rows"))
    assert await catalog.catalog.garbage_collector.collect() == []
    again = await catalog.datasets.RetryDataset(datasets_pb2.RetryDatasetRequest(name="datasets/rows"))
    assert await catalog.catalog.garbage_collector.collect() == []
    assert stored(catalog) == kept
    await worker.ingest("rows")
    assert again.uid == made.uid
    assert await catalog.catalog.garbage_collector.collect() == [f"datasets/{made.uid}/upload"]
    await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/rows"))
    assert stored(catalog) == []


async def test_concurrent_uploads_are_limited(catalog: harness.CatalogHarness) -> None:
    waiting = asyncio.Event()

    async def slow(name: str) -> Any:
        yield begun(name)
        await waiting.wait()
        for request in whole(name)[1:]:
            yield request

    calls = [catalog.datasets.UploadDataset(slow(f"rows-{place}")) for place in range(16)]
    # They have all begun once one more is refused.
    refusal = None
    async with asyncio.timeout(90):
        while refusal is None:
            # One that came while "more" had the last place was refused, and begins again.
            calls = [
                catalog.datasets.UploadDataset(slow(f"rows-{place}")) if call.done() else call
                for place, call in enumerate(calls)
            ]
            try:
                await catalog.datasets.UploadDataset(iter(whole("more")))
                await catalog.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="datasets/more"))
            except grpc.aio.AioRpcError as error:
                refusal = harness.as_error(error)
    check_names(refusal.message, 16)
    waiting.set()
    assert len({made.uid for made in await asyncio.gather(*calls)}) == 16
