"""Texts encoded through the clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import polytok
from polytok import errors
from services.tokenizer.models import loader

if TYPE_CHECKING:
    import pathlib

    from tests.support.stacks import Stack


@pytest.fixture(autouse=True)
def home(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return where the stack's facts are found."""
    monkeypatch.setenv("POLYTOK_HOME", str(stack.home))


def test_encode_and_compare(client: polytok.Client, ready: tuple[str, str], model_folder: pathlib.Path) -> None:
    _, model = ready
    expected = loader.load(model_folder).backend.encode("the sea").ids
    assert [token.id for token in client.encode("the sea", model).tokens] == expected
    (compared,) = client.compare("the sea", [client.models.get(model)])
    assert compared == client.encode("the sea", model, add_special_tokens=False)
    assert client.tokenizers.inspect(model).fingerprint == client.models.get(model).tokenizer_fingerprint
    with pytest.raises(errors.NotFound):
        client.encode("the sea", "absent")
    with pytest.raises(errors.InvalidArgument, match="UTF-8"):
        client.encode("\ud800", model)


async def test_asynchronously(async_client: polytok.AsyncClient, ready: tuple[str, str]) -> None:
    _, model = ready
    encoding = await async_client.encode("the sea", model)
    assert await async_client.compare("the sea", [model]) == [encoding]
    assert (await async_client.tokenizers.inspect(model)).type == "BPE"


def test_an_address_of_ones_own(
    client: polytok.Client, ready: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYTOK_TOKENIZER_ADDRESS", "127.0.0.1:1")
    with (
        polytok.Client(client.address, timeout=0.5, patience=0) as elsewhere,
        pytest.raises(errors.PolytokError) as caught,
    ):
        elsewhere.encode("the sea", ready[1])
    assert caught.value.retryable
