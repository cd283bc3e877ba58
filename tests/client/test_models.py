"""Models through the client."""

import pathlib

import pytest

import polytok
from polytok import errors
from tests.client import samples


def test_from_folder_to_ready(client: polytok.Client, model_folder: pathlib.Path) -> None:
    name = samples.unique("model")
    client.models.create(name, str(model_folder))
    record = client.models.wait(name, timeout=120)
    assert record.context_length == 64
    assert record.architecture == "GPT2LMHeadModel"
    assert {token.role: token.text for token in record.special_tokens}["bos_token"] == "<|endoftext|>"
    assert record in list(client.models.list())
    client.models.delete(name)
    with pytest.raises(errors.NotFound):
        client.models.get(name)


def test_a_folder_without_a_tokenizer(client: polytok.Client, tmp_path: pathlib.Path) -> None:
    record = client.models.create(samples.unique("model"), str(tmp_path))
    with pytest.raises(errors.InvalidArgument) as caught:
        client.models.wait(record, timeout=120)
    assert caught.value.reason == "TOKENIZER_INVALID"
    samples.write_model(tmp_path)
    client.models.retry(record)
    assert client.models.wait(record, timeout=120).vocab_size > 256


async def test_asynchronous(async_client: polytok.AsyncClient, model_folder: pathlib.Path) -> None:
    name = samples.unique("model")
    await async_client.models.create(name, str(model_folder), metadata={"team": "sae"})
    record = await async_client.models.wait(name, timeout=120)
    assert [each async for each in async_client.models.watch(record)][-1].tokenizer_fingerprint
    changed = await async_client.models.update(record, metadata={})
    assert not changed.metadata
