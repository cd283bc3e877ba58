"""Request ids (AIP-155): whatever is sent again with the same id happened once and is answered alike."""

import asyncio
import datetime
import uuid

import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, models_pb2, tokenizations_pb2
from services.catalog.server import tables
from services.records import idempotency
from tests.catalog import harness
from tests.catalog.harness import expect_error
from tests.support.messages import check_names


def _create(name="docs", request_id="", uri="/a.jsonl"):
    return datasets_pb2.CreateDatasetRequest(
        dataset_id=name, dataset=datasets_pb2.Dataset(source=harness.file_source(uri)), request_id=request_id
    )


async def test_repeated_create_returns_the_first_answer(catalog, worker):
    request = _create(request_id=str(uuid.uuid4()))
    first = await catalog.datasets.CreateDataset(request)
    await worker.ingest("docs")
    assert await catalog.datasets.CreateDataset(request) == first


async def test_concurrent_repeats_happen_once(catalog):
    request = _create(request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(catalog.datasets.CreateDataset(request) for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert await catalog.count(tables.jobs.jobs) == 1


async def test_request_id_is_for_one_request(catalog):
    request_id = str(uuid.uuid4())
    await catalog.datasets.CreateDataset(_create(request_id=request_id))
    for other in (_create("other", request_id), _create(request_id=request_id, uri="/b.jsonl")):
        async with expect_error(errors.InvalidArgument, "REQUEST_ID_REUSED") as caught:
            await catalog.datasets.CreateDataset(other)
        assert [violation.field for violation in caught[0].violations] == ["request_id"]
        check_names(caught[0].message, "request_id", request_id, "CreateDataset")
    async with expect_error(errors.InvalidArgument, "REQUEST_ID_REUSED"):
        await catalog.models.CreateModel(
            models_pb2.CreateModelRequest(model_id="gpt2", model=models_pb2.Model(repo_id="a/b"), request_id=request_id)
        )


async def test_refused_request_does_not_use_its_id(catalog):
    request = datasets_pb2.DeleteDatasetRequest(name="datasets/docs", request_id=str(uuid.uuid4()))
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await catalog.datasets.DeleteDataset(request)
    await catalog.create_dataset("docs")
    await catalog.datasets.DeleteDataset(request)
    # The dataset that comes after is another one: the deletion has happened.
    await catalog.create_dataset("docs")
    await catalog.datasets.DeleteDataset(request)
    assert (await catalog.dataset("docs")).name == "datasets/docs"


async def test_every_mutation_can_be_repeated(catalog, worker):
    """Each is sent twice: where the first left a state that would refuse the second, only the id can answer."""
    await catalog.create_dataset("docs")
    await worker.ingest("docs")
    await catalog.create_model("gpt2")
    await worker.inspect("gpt2")
    name = "datasets/docs/tokenizations/gpt2"

    async def twice(call, kind, **fields):
        request = kind(request_id=str(uuid.uuid4()), **fields)
        first = await call(request)
        assert await call(request) == first
        return first

    stub = catalog.tokenizations
    create = tokenizations_pb2.CreateTokenizationRequest
    created = await twice(stub.CreateTokenization, create, parent="datasets/docs", model="models/gpt2")
    await twice(stub.CancelTokenization, tokenizations_pb2.CancelTokenizationRequest, name=name)
    retried = await twice(stub.RetryTokenization, tokenizations_pb2.RetryTokenizationRequest, name=name)
    assert retried.job != created.job
    await twice(stub.DeleteTokenization, tokenizations_pb2.DeleteTokenizationRequest, name=name)
    model = models_pb2.Model(name="models/gpt2", metadata={"a": "b"}, etag=(await _model(catalog)).etag)
    await twice(catalog.models.UpdateModel, models_pb2.UpdateModelRequest, model=model)
    await twice(catalog.models.DeleteModel, models_pb2.DeleteModelRequest, name="models/gpt2")
    dataset = datasets_pb2.Dataset(name="datasets/docs", etag=(await catalog.dataset("docs")).etag)
    await twice(catalog.datasets.UpdateDataset, datasets_pb2.UpdateDatasetRequest, dataset=dataset)
    await twice(catalog.datasets.DeleteDataset, datasets_pb2.DeleteDatasetRequest, name="datasets/docs")


async def _model(catalog):
    return await catalog.models.GetModel(models_pb2.GetModelRequest(name="models/gpt2"))


async def test_malformed_request_id_is_refused(catalog):
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD"):
        await catalog.datasets.CreateDataset(_create(request_id="one"))


@pytest.mark.parametrize(("age", "left"), [(datetime.timedelta(hours=1), 1), (datetime.timedelta(0), 0)])
async def test_old_answers_are_deleted(catalog, age, left):
    await catalog.datasets.CreateDataset(_create(request_id=str(uuid.uuid4())))
    async with catalog.database.transaction() as conn:
        await idempotency.delete_expired(conn, tables.answers, age)
    assert await catalog.count(tables.answers) == left
