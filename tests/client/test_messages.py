"""Values that no request can hold are refused here, by the field's name, before anything is asked."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import polytok
from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tokenizations_pb2
from polytok.client import message_builder

HUGE = 10**12
SAE = {"hook": "blocks.0.hook_resid_post", "architecture": "topk", "d_sae": 64}


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a client whose services are not there; whatever asks one of them ends in Unavailable."""
    for service in ("TOKENIZER", "EXTRACTOR", "TRAINER"):
        monkeypatch.setenv(f"POLYTOK_{service}_ADDRESS", "127.0.0.1:1")
    with polytok.Client("127.0.0.1:1", timeout=1, patience=0) as client:
        yield client


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("sample", lambda client: client.tokenizers.verify("d", "m", sample=HUGE)),
        ("sample", lambda client: list(client.tokenizers.verifying("d", "m", sample="some"))),
        ("add_special_tokens", lambda client: client.encode("x", "m", add_special_tokens="no")),
        ("batch_size", lambda client: client.extractions.create("d", "m", hooks=["h"], batch_size=HUGE)),
        ("batch_size", lambda client: client.extractions.estimate("d", "m", hooks=["h"], batch_size=HUGE)),
        ("hooks", lambda client: client.extractions.create("d", "m", hooks=[3])),
        ("max_length", lambda client: client.tokenizations.create("d", "m", max_length=HUGE)),
        ("max_length", lambda client: client.tokenizations.create("d", "m", max_length="long")),
        ("variant", lambda client: client.tokenizations.create("d", "m", variant=3)),
        ("request_id", lambda client: client.tokenizations.delete("d/m", request_id=3)),
        ("after_step", lambda client: list(client.trainings.metrics("t", after_step=2**63))),
        ("total_samples", lambda client: client.trainings.create("d", "m", saes=[SAE], total_samples=2**64)),
        ("d_sae", lambda client: client.trainings.create("d", "m", saes=[{**SAE, "d_sae": 2**70}])),
        ("context_size", lambda client: client.trainings.create("d", "m", saes=[SAE], live={"context_size": 2**70})),
        ("from_start", lambda client: client.trainings.retry("t", from_start="yes")),
        ("metadata", lambda client: client.datasets.create("d", files="x", metadata={"a": 1})),
        ("dataset_id", lambda client: client.datasets.create("\ud800", files="x")),
        ("force", lambda client: client.datasets.delete("d", force="yes")),
        ("etag", lambda client: client.models.update("m", metadata={}, etag=1)),
    ],
)
def test_a_value_that_a_field_cannot_hold(nowhere: Any, field: str, call: Callable[[Any], Any]) -> None:
    with pytest.raises(errors.InvalidArgument, match=field) as caught:
        call(nowhere)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(
    ("value", "what", "call"),
    [
        ("None", "dataset", lambda client: client.tokenizations.create(None, "m")),
        ("None", "model", lambda client: client.extractions.create("d", None, hooks=["h"])),
        ("3", "extraction", lambda client: client.extractions.get(3)),
        ("None", "training", lambda client: client.trainings.get(None)),
        ("None", "tokenization", lambda client: client.tokenizations.get(None)),
        ("None", "repository", lambda client: client.models.create("m", None)),
        ("3", "files", lambda client: client.datasets.create("d", files=3)),
        ("[None]", "files", lambda client: client.datasets.create("d", files=[None])),
        ("NoneType", "text", lambda client: client.encode(None, "m")),
        ("'5'", "state", lambda client: list(client.datasets.list(states=[5]))),
    ],
)
def test_what_is_no_name(nowhere: Any, value: str, what: str, call: Callable[[Any], Any]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        call(nowhere)
    assert value in caught.value.message
    assert what in caught.value.message


def test_a_range_error_shortens_long_values() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        message_builder.build(tokenizations_pb2.TokenizationParameters, max_length=2**31)
    assert caught.value.message.startswith("max_length ")
    assert re.findall(r"-?\d+", caught.value.message) == ["2147483648", "-2147483648", "2147483647"]
    with pytest.raises(errors.InvalidArgument, match="uris") as caught:
        message_builder.build(datasets_pb2.FileSource, uris=range(10_000))  # type: ignore[arg-type]
    assert len(caught.value.message) < 200


def test_a_field_that_there_is_not() -> None:
    with pytest.raises(errors.InvalidArgument, match=r"'uri'.*uris, format"):
        message_builder.build(datasets_pb2.FileSource, uri="x")  # type: ignore[call-arg]


def test_whoever_can_be_sent_is_asked(nowhere: Any) -> None:
    with pytest.raises(errors.Unavailable):
        nowhere.tokenizers.verify("d", "m", sample=2**31 - 1)
