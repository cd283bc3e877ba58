"""What a worker's error is stays on the record: class, violations and metadata."""

from typing import Any

import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, models_pb2, tokenizations_pb2
from polytok.cli.render import json_documents
from polytok.client import watch_stream
from polytok.errors import codec
from tests.catalog import harness
from tests.catalog.task_runner import TaskRunner

NAME = "datasets/docs/tokenizations/small"


def made(kind: type[errors.PolytokError]) -> errors.PolytokError:
    """Return an error of a class with all that an error has; nobody tries again."""
    return kind(
        "It is so.",
        reason="COLUMN_INVALID",
        metadata={"column": "text", "row": "17"},
        violations=[errors.FieldViolation("parameters.text_column", "holds a null")],
        retryable=False,
    )


def check(record: Any, sent: errors.PolytokError) -> None:
    """Check what a client raises and what the command line prints for a record."""
    assert (record.error_reason, record.error_message) == (sent.reason, sent.message)
    with pytest.raises(errors.PolytokError) as caught:
        watch_stream.ready(record)
    assert type(caught.value) is type(sent)
    assert vars(caught.value) == vars(sent) | {"message": f"{record.name}: It is so."}
    assert json_documents.record(record)["error"] == json_documents.error(sent)["error"]


@pytest.mark.parametrize("kind", list(codec.CODES))
async def test_of_a_dataset(
    catalog: harness.CatalogHarness, worker: harness.FakeWorker, kind: type[errors.PolytokError]
) -> None:
    created = await catalog.create_dataset("docs")
    assert json_documents.record(created)["error"] is None
    await (await worker.take(created.job)).fail_as(made(kind))
    check(await catalog.dataset("docs"), made(kind))


async def test_of_a_model(catalog: harness.CatalogHarness, worker: harness.FakeWorker) -> None:
    created = await catalog.create_model("gpt2")
    await (await worker.take(created.job)).fail_as(made(errors.DataLoss))
    found = await catalog.models.GetModel(models_pb2.GetModelRequest(name="models/gpt2"))
    check(found, made(errors.DataLoss))
    retried = await catalog.models.RetryModel(models_pb2.RetryModelRequest(name="models/gpt2"))
    assert not retried.HasField("error")


async def test_of_a_tokenization_and_of_its_repair(docs: harness.CatalogHarness, runner: TaskRunner) -> None:
    created = await docs.tokenize("docs", "small", max_length=16)
    await (await runner.take(created.job)).fail_as(made(errors.NotFound))
    check(await docs.tokenization(NAME), made(errors.NotFound))
    retry = tokenizations_pb2.RetryTokenizationRequest(name=NAME)
    retried = await docs.tokenizations.RetryTokenization(retry)
    assert not retried.HasField("error")
    await runner.run(retried.job)
    repair = tokenizations_pb2.RepairTokenizationRequest(name=NAME)
    job = (await docs.tokenizations.RepairTokenization(repair)).repair.job
    await (await runner.take(job)).fail_as(made(errors.ResourceExhausted))
    found = await docs.tokenization(NAME)
    assert not found.HasField("error")
    assert vars(codec.from_message(found.repair.error)) == vars(made(errors.ResourceExhausted))
    dataset = await docs.datasets.GetDataset(datasets_pb2.GetDatasetRequest(name="datasets/docs"))
    assert not dataset.HasField("error")
