"""Tokenizations through the client, to rows in memory."""

import pathlib
import sys

import pytest
from tokenizers import Tokenizer

import polytok
from polytok import errors
from polytok.client import watch_stream
from tests.client import samples


@pytest.fixture
def dataset(client: polytok.Client, documents: pathlib.Path) -> str:
    name = samples.unique("docs")
    client.datasets.create(name, files=documents)
    client.datasets.wait(name, timeout=120)
    return name


def test_from_create_to_rows(
    client: polytok.Client, dataset: str, ready: tuple[str, str], model_folder: pathlib.Path
) -> None:
    _, model = ready
    created = client.tokenizations.create(dataset, model, max_length=16)
    assert created.name == f"datasets/{dataset}/tokenizations/{model}"
    record = client.tokenizations.wait(created, timeout=120)
    assert record.parameters.max_length == 16
    rows = client.load(dataset, model)
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    assert [row["input_ids"] for row in rows] == [tokenizer.encode(text).ids[:16] for text in samples.TEXTS]
    assert record.statistics.num_tokens == sum(len(row["input_ids"]) for row in rows)
    assert client.tokenizations.resolve(dataset, model).tokenized_path == record.tokenized_path
    assert client.tokenizations.get(record.uid) == record
    assert list(client.tokenizations.list(dataset)) == [record]
    assert record in list(client.tokenizations.list(model=model))


def test_variants_stand_side_by_side(client: polytok.Client, dataset: str, ready: tuple[str, str]) -> None:
    _, model = ready
    client.tokenizations.create(dataset, model)
    packed = client.tokenizations.create(dataset, model, variant="packed", max_length=32, packing=True)
    assert packed.variant == "packed"
    client.tokenizations.wait(dataset, model, variant="packed", timeout=120)
    client.tokenizations.wait(dataset, model, timeout=120)
    assert {len(row["input_ids"]) for row in client.load(dataset, model, "packed")} == {32}
    assert len(list(client.tokenizations.list(dataset))) == 2
    client.tokenizations.delete(dataset, model, variant="packed")
    assert [each.variant for each in client.tokenizations.list(dataset)] == [""]
    with pytest.raises(errors.FailedPrecondition, match=model):
        client.datasets.delete(dataset)
    client.datasets.delete(dataset, force=True)


def test_the_same_again_and_another(client: polytok.Client, dataset: str, ready: tuple[str, str]) -> None:
    _, model = ready
    first = client.tokenizations.create(dataset, model, max_length=16)
    assert client.tokenizations.create(dataset, model, max_length=16).uid == first.uid
    with pytest.raises(errors.AlreadyExists, match="max_length"):
        client.tokenizations.create(dataset, model, max_length=32)


def test_what_is_not_there(client: polytok.Client, ready: tuple[str, str]) -> None:
    dataset, model = ready
    with pytest.raises(errors.NotFound):
        client.tokenizations.create(dataset, "absent")
    with pytest.raises(errors.NotFound):
        client.load(dataset, model, "absent")
    with pytest.raises(errors.InvalidArgument) as caught:
        client.tokenizations.create(dataset, model, variant="other", text_column="body")
    assert caught.value.reason == "COLUMN_NOT_FOUND"
    with pytest.raises(errors.InvalidArgument):
        client.tokenizations.create(dataset, model, variant="other", max_length=0)


def test_loading_needs_datasets(
    client: polytok.Client, dataset: str, ready: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = ready
    client.tokenizations.create(dataset, model)
    client.tokenizations.wait(dataset, model, timeout=120)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(errors.FailedPrecondition, match=r"pip install 'polytok\[data\]'"):
        client.load(dataset, model)


async def test_asynchronous(
    async_client: polytok.AsyncClient, client: polytok.Client, dataset: str, ready: tuple[str, str]
) -> None:
    _, model = ready
    created = await async_client.tokenizations.create(dataset, model, max_length=8)
    states = [watch_stream.state(version) async for version in async_client.tokenizations.watch(created)]
    assert states[-1] == "READY"
    assert len(await async_client.load(dataset, model)) == len(samples.TEXTS)
    await async_client.tokenizations.delete(created)
    assert [each async for each in async_client.tokenizations.list(dataset)] == []
