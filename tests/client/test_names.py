"""Resource names from what people type."""

import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tokenizations_pb2
from polytok.client import resource_names

_UID = "0b0e9f0c-5d0f-4c59-a6fc-6a1a5c4c8f11"


def test_short_ids_full_names_and_records() -> None:
    assert resource_names.dataset("docs") == "datasets/docs"
    assert resource_names.dataset("datasets/docs") == "datasets/docs"
    assert resource_names.dataset(datasets_pb2.Dataset(name="datasets/docs")) == "datasets/docs"
    assert resource_names.model("m_0123abcd") == "models/m_0123abcd"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("docs", "gpt2"), "datasets/docs/tokenizations/gpt2"),
        (("datasets/docs", "models/gpt2", "ctx-512"), "datasets/docs/tokenizations/gpt2~ctx-512"),
        (("docs/gpt2",), "datasets/docs/tokenizations/gpt2"),
        (("docs/gpt2~wide",), "datasets/docs/tokenizations/gpt2~wide"),
        (("docs/gpt2", None, "wide"), "datasets/docs/tokenizations/gpt2~wide"),
        (("datasets/docs/tokenizations/gpt2",), "datasets/docs/tokenizations/gpt2"),
        ((f"tok_{_UID}_m_0123abcd",), f"datasets/{_UID}/tokenizations/m_0123abcd"),
        ((f"tok_{_UID}_m_0123abcd_wide",), f"datasets/{_UID}/tokenizations/m_0123abcd~wide"),
        ((tokenizations_pb2.Tokenization(name="datasets/a/tokenizations/b"),), "datasets/a/tokenizations/b"),
    ],
)
def test_tokenizations(arguments: tuple[str, ...], name: str) -> None:
    assert resource_names.tokenization(*arguments) == name


@pytest.mark.parametrize("text", ["docs", "datasets/docs", "a/b/c", "docs/", ""])
def test_invalid_tokenization_names(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="tokenization") as caught:
        resource_names.tokenization(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize("text", ["../docs", "models/docs", "/docs", "docs/"])
def test_invalid_dataset_names(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="`polytok dataset list`") as caught:
        resource_names.dataset(text)
    assert repr(text) in caught.value.message


def test_short() -> None:
    assert resource_names.short("datasets/docs/tokenizations/gpt2~wide") == "docs/gpt2~wide"
    assert resource_names.short("models/gpt2") == "gpt2"
