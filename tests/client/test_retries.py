"""A service that is away for longer than the channel itself tries: the client goes on asking, with one request id."""

from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

import polytok
from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2, tokenizations_pb2_grpc

CHANNEL_TRIES = 4


class Away(tokenizations_pb2_grpc.TokenizationServiceServicer):
    """Answers UNAVAILABLE so many times, as a catalog that starts or has lost its database does."""

    def __init__(self) -> None:
        self.left = 0
        self.request_ids: list[str] = []

    def CancelTokenization(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802  gRPC's name
        """Away, or the record."""
        self.request_ids.append(request.request_id)
        if self.left:
            self.left -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return tokenizations_pb2.Tokenization(name=request.name)


@pytest.fixture
def away() -> Iterator[tuple[Away, str]]:
    service = Away()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    tokenizations_pb2_grpc.add_TokenizationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
async def patient(away: tuple[Away, str]) -> AsyncIterator[polytok.AsyncClient]:
    async with polytok.AsyncClient(away[1], patience=60) as client:
        yield client


def test_a_call_outlasts_the_absence(away: tuple[Away, str]) -> None:
    service, address = away
    service.left = CHANNEL_TRIES + 1
    with polytok.Client(address, patience=60) as client:
        assert client.tokenizations.cancel("datasets/d/tokenizations/m").name == "datasets/d/tokenizations/m"
    assert len(service.request_ids) == CHANNEL_TRIES + 2
    assert len(set(service.request_ids)) == 1
    assert service.request_ids[0]


async def test_so_does_one_that_is_awaited(away: tuple[Away, str], patient: polytok.AsyncClient) -> None:
    away[0].left = CHANNEL_TRIES + 1
    assert (await patient.tokenizations.cancel("datasets/d/tokenizations/m")).name == "datasets/d/tokenizations/m"
    assert len(set(away[0].request_ids)) == 1


def test_without_retries_the_error_is_immediate(away: tuple[Away, str]) -> None:
    service, address = away
    service.left = 1000
    with polytok.Client(address, patience=0) as client, pytest.raises(errors.Unavailable, match="not yet"):
        client.tokenizations.cancel("datasets/d/tokenizations/m")
    assert len(service.request_ids) == CHANNEL_TRIES
