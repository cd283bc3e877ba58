"""A server that stops: calls end, streams are ended, nothing waits for ever."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polytok import channels, errors
from polytok.catalog.v1 import datasets_pb2, datasets_pb2_grpc
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.runtime import settings
from services.runtime.rpc import channel, server
from tests.runtime.conftest import EXTEND, SERVICE, Context, Leases


async def test_draining_lets_a_call_end_and_refuses_the_next(leases: Leases) -> None:
    go = asyncio.Event()

    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        await go.wait()
        return leases_pb2.ExtendLeaseResponse()

    leases.answer = answer
    running = server.Server(settings.ServerSettings(drain_seconds=60), service="test")
    running.add(leases_pb2_grpc.add_LeaseServiceServicer_to_server, leases, SERVICE)
    address = f"127.0.0.1:{await running.start()}"
    async with channel.open_channel(address, service="test") as opened:
        call = asyncio.ensure_future(leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND))
        await leases.entered.wait()
        draining = asyncio.create_task(running.drain())
        await asyncio.sleep(0)
        async with grpc.aio.insecure_channel(address) as late:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await leases_pb2_grpc.LeaseServiceStub(late).ExtendLease(EXTEND, timeout=60)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not call.done()
        go.set()
        assert await call == leases_pb2.ExtendLeaseResponse()
        async with asyncio.timeout(60):
            await draining
    assert leases.calls == 1


async def test_draining_has_an_end(leases: Leases) -> None:
    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        await asyncio.Event().wait()
        raise AssertionError

    leases.answer = answer
    running = server.Server(settings.ServerSettings(drain_seconds=0.1), service="test")
    running.add(leases_pb2_grpc.add_LeaseServiceServicer_to_server, leases, SERVICE)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await running.start()}") as opened:
        call = asyncio.ensure_future(leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND, timeout=60))
        await leases.entered.wait()
        async with asyncio.timeout(60):
            await running.drain()
        with pytest.raises(grpc.aio.AioRpcError):
            await call


class Datasets(datasets_pb2_grpc.DatasetServiceServicer):
    """Streams one message, then waits for ever."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def WatchDataset(  # noqa: N802 (gRPC names it)
        self, request: datasets_pb2.WatchDatasetRequest, context: Context
    ) -> AsyncIterator[datasets_pb2.WatchDatasetResponse]:
        try:
            yield datasets_pb2.WatchDatasetResponse()
            if request.name == "datasets/broken":
                raise errors.NotFound("gone")
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@pytest.fixture
async def watched() -> AsyncIterator[tuple[server.Server, Datasets]]:
    datasets = Datasets()
    running = server.Server(settings.ServerSettings(drain_seconds=60), service="test")
    running.add(datasets_pb2_grpc.add_DatasetServiceServicer_to_server, datasets, "polytok.catalog.v1.DatasetService")
    await running.start()
    yield running, datasets
    await running.drain()


async def test_stream_validates_and_maps_errors(watched: tuple[server.Server, Datasets]) -> None:
    running, _ = watched
    async with channel.open_channel(f"127.0.0.1:{running.port}", service="test") as opened:
        stub = datasets_pb2_grpc.DatasetServiceStub(opened)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.WatchDataset(datasets_pb2.WatchDatasetRequest(name="../x")).read()
        assert isinstance(channels.from_rpc_error(caught.value), errors.InvalidArgument)
        call = stub.WatchDataset(datasets_pb2.WatchDatasetRequest(name="datasets/broken"))
        assert await call.read() == datasets_pb2.WatchDatasetResponse()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert channels.from_rpc_error(caught.value).message == "gone"


async def test_a_watcher_that_leaves_frees_the_handler(watched: tuple[server.Server, Datasets]) -> None:
    running, datasets = watched
    async with channel.open_channel(f"127.0.0.1:{running.port}", service="test") as opened:
        call = datasets_pb2_grpc.DatasetServiceStub(opened).WatchDataset(
            datasets_pb2.WatchDatasetRequest(name="datasets/docs")
        )
        await call.read()
        call.cancel()
        async with asyncio.timeout(60):
            await datasets.ended.wait()


async def test_draining_ends_streams_at_once(watched: tuple[server.Server, Datasets]) -> None:
    running, datasets = watched
    async with channel.open_channel(f"127.0.0.1:{running.port}", service="test") as opened:
        call = datasets_pb2_grpc.DatasetServiceStub(opened).WatchDataset(
            datasets_pb2.WatchDatasetRequest(name="datasets/docs")
        )
        health = health_pb2_grpc.HealthStub(opened).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        await call.read()
        async with asyncio.timeout(60):
            await running.drain()
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    error = channels.from_rpc_error(caught.value)
    assert isinstance(error, errors.Unavailable)
    assert "shutting down" in error.message
    assert datasets.ended.is_set()
