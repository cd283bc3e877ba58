"""A real gRPC server with one small service of our contracts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

from polytok import channels, errors
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.runtime import settings
from services.runtime.rpc import channel, server

TASK = "6f1d4c4e-3f4e-4a39-9f9d-1f6f4ed15b7a"
EXTEND = leases_pb2.ExtendLeaseRequest(task_id=TASK, epoch=1)
SERVICE = "polytok.jobs.v1.LeaseService"

Context = grpc.aio.ServicerContext[Any, Any]
Answer = Callable[[leases_pb2.ExtendLeaseRequest, Context], Awaitable[leases_pb2.ExtendLeaseResponse]]


class Leases(leases_pb2_grpc.LeaseServiceServicer):
    """Answers as each test tells it to."""

    def __init__(self) -> None:
        self.calls = 0
        self.entered = asyncio.Event()
        self.answer: Answer = self.plainly

    async def plainly(self, request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        return leases_pb2.ExtendLeaseResponse()

    async def ExtendLease(  # noqa: N802 (gRPC names it)
        self, request: leases_pb2.ExtendLeaseRequest, context: Context
    ) -> leases_pb2.ExtendLeaseResponse:
        self.calls += 1
        self.entered.set()
        return await self.answer(request, context)


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
async def served(leases: Leases) -> AsyncIterator[server.Server]:
    running = server.Server(settings.ServerSettings(drain_seconds=5), service="test")
    running.add(leases_pb2_grpc.add_LeaseServiceServicer_to_server, leases, SERVICE)
    await running.start()
    yield running
    await running.drain()


@pytest.fixture
async def peer(served: server.Server) -> AsyncIterator[grpc.aio.Channel]:
    async with channel.open_channel(f"127.0.0.1:{served.port}", service="test") as opened:
        yield opened


@pytest.fixture
def stub(peer: grpc.aio.Channel) -> leases_pb2_grpc.LeaseServiceStub:
    return leases_pb2_grpc.LeaseServiceStub(peer)


async def failure(
    stub: leases_pb2_grpc.LeaseServiceStub, request: leases_pb2.ExtendLeaseRequest = EXTEND
) -> errors.PolytokError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ExtendLease(request)
    return channels.from_rpc_error(caught.value)


def raising(error: Exception) -> Answer:
    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        raise error

    return answer
