"""Datasets through the client."""

import pathlib
import uuid

import pytest

import polytok
from polytok import errors
from polytok.client import watch_stream
from tests.client import samples


def test_from_file_to_ready(client: polytok.Client, documents: pathlib.Path) -> None:
    name = samples.unique("docs")
    created = client.datasets.create(name, files=documents, metadata={"team": "sae"})
    assert created.name == f"datasets/{name}"
    record = client.datasets.wait(name, timeout=120)
    assert record.num_samples == len(samples.TEXTS)
    assert [column.name for column in record.columns] == ["text", "number"]
    assert dict(record.metadata) == {"team": "sae"}
    assert client.datasets.get(record) == record
    assert client.datasets.get(record.uid) == record
    assert name in [each.name.removeprefix("datasets/") for each in client.datasets.list(states=["READY"])]


def test_watch_yields_every_state_to_the_end(client: polytok.Client, documents: pathlib.Path) -> None:
    record = client.datasets.create(samples.unique("docs"), files=documents)
    states = [watch_stream.state(version) for version in client.datasets.watch(record)]
    assert states[-1] == "READY"
    assert "READY" not in states[:-1]


def test_the_same_request_twice(client: polytok.Client, documents: pathlib.Path) -> None:
    name, request_id = samples.unique("docs"), str(uuid.uuid4())
    first = client.datasets.create(name, files=documents, request_id=request_id)
    assert client.datasets.create(name, files=documents, request_id=request_id).uid == first.uid
    assert client.datasets.create(name, files=documents).uid == first.uid
    with pytest.raises(errors.AlreadyExists):
        client.datasets.create(name, files="/elsewhere.jsonl")


def test_a_failure_is_an_exception_with_the_reason(client: polytok.Client, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.touch()
    record = client.datasets.create(samples.unique("docs"), files=path)
    with pytest.raises(errors.InvalidArgument, match=str(path)) as caught:
        client.datasets.wait(record, timeout=120)
    assert caught.value.reason == "SOURCE_EMPTY"
    samples.write_jsonl(path)
    client.datasets.retry(record)
    assert client.datasets.wait(record, timeout=120).num_samples == len(samples.TEXTS)
    with pytest.raises(errors.FailedPrecondition):
        client.datasets.retry(record)


def test_update_and_delete(client: polytok.Client, documents: pathlib.Path) -> None:
    record = client.datasets.create(samples.unique("docs"), files=documents)
    record = client.datasets.wait(record, timeout=120)
    changed = client.datasets.update(record, metadata={"note": "new"}, etag=record.etag)
    assert dict(changed.metadata) == {"note": "new"}
    with pytest.raises(errors.Aborted):
        client.datasets.update(record, metadata={}, etag=record.etag)
    client.datasets.delete(record)
    with pytest.raises(errors.NotFound):
        client.datasets.get(record)


@pytest.mark.parametrize("name", ["Docs", "../docs", "a" * 70, ""])
def test_bad_ids(client: polytok.Client, documents: pathlib.Path, name: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        client.datasets.create(name, files=documents)
    assert caught.value.violations[0].field == "dataset_id"


async def test_asynchronous(async_client: polytok.AsyncClient, documents: pathlib.Path) -> None:
    name = samples.unique("docs")
    await async_client.datasets.create(name, files=documents)
    states = [watch_stream.state(version) async for version in async_client.datasets.watch(name)]
    assert states[-1] == "READY"
    assert name in [each.name.removeprefix("datasets/") async for each in async_client.datasets.list()]
    await async_client.datasets.delete(name)
    with pytest.raises(errors.NotFound):
        await async_client.datasets.wait(name, timeout=120)


def test_a_client_that_was_closed_connects_again(client: polytok.Client, ready: tuple[str, str]) -> None:
    dataset, _ = ready
    client.close()
    assert client.datasets.get(dataset).name == f"datasets/{dataset}"
    client.close()
    client.close()
