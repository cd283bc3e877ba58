"""TokenizerService of a running stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import polytok
from polytok import channels, errors
from polytok.tokenizer.v1 import tokenizer_pb2 as pb
from polytok.tokenizer.v1 import tokenizer_pb2_grpc
from services.tokenizer.models import loader
from tests.client import samples as corpus
from tests.support.messages import words

if TYPE_CHECKING:
    import pathlib

    from tests.support.stacks import Stack

TEXT = "The quick brown fox.\n  Indented: naïve 中文 \U0001f469\u200d\U0001f469\u200d\U0001f467"


@pytest.fixture(scope="module")
def models(stack: Stack, folders: dict[str, pathlib.Path]) -> dict[str, str]:
    """Return the name of a READY model for each kind of tokenizer."""
    names = {kind: corpus.unique(kind.replace("_", "-")) for kind in folders}
    with polytok.Client(stack.catalog_address) as client:
        for kind, name in names.items():
            client.models.create(name, str(folders[kind]))
        for name in names.values():
            client.models.wait(name, timeout=60)
    return {kind: f"models/{name}" for kind, name in names.items()}


@pytest.fixture(scope="module")
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    with channels.open_channel(stack.facts["tokenizer_address"]) as opened:
        yield opened


@pytest.fixture
def service(channel: grpc.Channel) -> tokenizer_pb2_grpc.TokenizerServiceStub:
    return tokenizer_pb2_grpc.TokenizerServiceStub(channel)


def refusal(call: grpc.UnaryUnaryMultiCallable[object, object], request: object) -> errors.PolytokError:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return channels.from_rpc_error(caught.value)


def test_inspect(
    service: tokenizer_pb2_grpc.TokenizerServiceStub, models: dict[str, str], folders: dict[str, pathlib.Path]
) -> None:
    found = service.Inspect(pb.InspectRequest(model=models["wordpiece"]))
    loaded = loader.load(folders["wordpiece"])
    assert (found.model, found.type, found.fingerprint) == (models["wordpiece"], "WordPiece", loaded.fingerprint)
    assert '"BertNormalizer"' in found.normalizer


def test_encode(
    service: tokenizer_pb2_grpc.TokenizerServiceStub, models: dict[str, str], folders: dict[str, pathlib.Path]
) -> None:
    backend = loader.load(folders["wordpiece"]).backend
    framed = service.Encode(pb.EncodeRequest(model=models["wordpiece"], text=TEXT)).encoding
    assert [token.id for token in framed.tokens] == backend.encode(TEXT).ids
    request = pb.EncodeRequest(model=models["wordpiece"], text=TEXT, add_special_tokens=False)
    plain = service.Encode(request).encoding
    assert [token.id for token in plain.tokens] == backend.encode(TEXT, add_special_tokens=False).ids
    assert list(service.Encode(pb.EncodeRequest(model=models["byte_level"], text="")).encoding.tokens) == []


def test_compare(
    service: tokenizer_pb2_grpc.TokenizerServiceStub, models: dict[str, str], folders: dict[str, pathlib.Path]
) -> None:
    encodings = service.Compare(pb.CompareRequest(models=list(models.values()), text=TEXT)).encodings
    assert [each.model for each in encodings] == list(models.values())
    for kind, encoding in zip(models, encodings, strict=True):
        assert [token.id for token in encoding.tokens] == loader.load(folders[kind]).backend.encode(TEXT).ids


@pytest.mark.long
def test_the_largest_texts(service: tokenizer_pb2_grpc.TokenizerServiceStub, models: dict[str, str]) -> None:
    # A token for each byte, which is the most there can be.
    text = "\x01" * (1 << 20)
    assert len(service.Encode(pb.EncodeRequest(model=models["byte_level"], text=text)).encoding.tokens) == 1 << 20
    refused = refusal(service.Encode, pb.EncodeRequest(model=models["byte_level"], text=text + "é"))
    assert isinstance(refused, errors.InvalidArgument)
    assert [violation.field for violation in refused.violations] == ["text"]
    assert {"1", "MiB"} <= words(refused.message)
    both = [models["byte_level"], models["wordpiece"]]
    assert service.Compare(pb.CompareRequest(models=both, text="é" * (1 << 15))).encodings[0].tokens
    refused = refusal(service.Compare, pb.CompareRequest(models=both, text="é" * (1 << 15) + "e"))
    assert [violation.field for violation in refused.violations] == ["text"]
    assert {"64", "KiB"} <= words(refused.message)


def test_absent_and_broken_models(
    service: tokenizer_pb2_grpc.TokenizerServiceStub, stack: Stack, models: dict[str, str], tmp_path: pathlib.Path
) -> None:
    absent = refusal(service.Compare, pb.CompareRequest(models=[models["wordpiece"], "models/absent"], text="a"))
    assert isinstance(absent, errors.NotFound)
    assert (absent.reason, absent.metadata["resource"]) == ("RESOURCE_NOT_FOUND", "models/absent")
    name = corpus.unique("broken")
    with polytok.Client(stack.catalog_address) as client:
        client.models.create(name, str(tmp_path))
        with pytest.raises(errors.PolytokError):
            client.models.wait(name, timeout=60)
    broken = refusal(service.Encode, pb.EncodeRequest(model=f"models/{name}", text="a"))
    assert isinstance(broken, errors.FailedPrecondition)
    assert (broken.reason, broken.metadata["resource"]) == ("NOT_READY", f"models/{name}")
    assert {str(tmp_path), "tokenizer.json"} <= words(broken.message)


def test_wrong_requests(service: tokenizer_pb2_grpc.TokenizerServiceStub, models: dict[str, str]) -> None:
    assert refusal(service.Encode, pb.EncodeRequest(model="gpt2", text="a")).violations[0].field == "model"
    twice = pb.CompareRequest(models=[models["wordpiece"]] * 2, text="a")
    assert refusal(service.Compare, twice).violations[0].field == "models"
    assert refusal(service.Compare, pb.CompareRequest(text="a")).violations[0].field == "models"


def test_health(channel: grpc.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service="polytok.tokenizer.v1.TokenizerService")
    assert health_pb2_grpc.HealthStub(channel).Check(request).status == health_pb2.HealthCheckResponse.SERVING
