"""Calls to which a stream is sent: validated message by message, and their errors reported as those of any call."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from polytok import channels, errors
from polytok.catalog.v1 import datasets_pb2, datasets_pb2_grpc
from services.runtime import settings
from services.runtime.rpc import channel, server
from services.runtime.telemetry import metrics

Request = datasets_pb2.UploadDatasetRequest
METHOD = "/polytok.catalog.v1.DatasetService/UploadDataset"
FINE = Request(batch=b"rows of it")


class Datasets(datasets_pb2_grpc.DatasetServiceServicer):
    """Counts what it receives; a last message without batches fails."""

    async def UploadDataset(  # noqa: N802 (gRPC names it)
        self, request_iterator: AsyncIterator[Request], context: grpc.aio.ServicerContext[Any, Any]
    ) -> datasets_pb2.Dataset:
        count = 0
        async for request in request_iterator:
            if request.HasField("end"):
                raise errors.FailedPrecondition("It ends here.", reason="WRONG_STATE")
            count += 1
        return datasets_pb2.Dataset(num_samples=count)


@pytest.fixture
async def upload() -> AsyncIterator[Any]:
    running = server.Server(settings.ServerSettings(drain_seconds=5), service="test")
    name = datasets_pb2.DESCRIPTOR.services_by_name["DatasetService"].full_name
    running.add(datasets_pb2_grpc.add_DatasetServiceServicer_to_server, Datasets(), name)
    port = await running.start()
    async with channel.open_channel(f"127.0.0.1:{port}", service="test") as opened:
        yield datasets_pb2_grpc.DatasetServiceStub(opened).UploadDataset
    await running.drain()


async def failure(call: Any) -> errors.PolytokError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return channels.from_rpc_error(caught.value)


async def test_every_message_is_received(upload: Any) -> None:
    calls = metrics.rpc_seconds.labels(METHOD, "OK")
    before = sum(sample.value for sample in calls._child_samples() if sample.name == "_count")
    assert (await upload(iter([FINE] * 50))).num_samples == 50
    assert (await upload(iter([]))).num_samples == 0
    after = sum(sample.value for sample in calls._child_samples() if sample.name == "_count")
    assert after - before == 2


async def test_every_message_is_validated(upload: Any) -> None:
    for bad, field in ((Request(batch=b"short"), "batch"), (Request(), "message")):
        found = await failure(upload(iter([FINE, FINE, bad, FINE])))
        assert isinstance(found, errors.InvalidArgument)
        assert found.reason == "INVALID_FIELD"
        assert [each.field for each in found.violations] == [field]


async def test_an_error_is_the_services_own(upload: Any) -> None:
    found = await failure(upload(iter([FINE, Request(end=datasets_pb2.UploadEnd()), FINE])))
    assert isinstance(found, errors.FailedPrecondition)
    assert (found.reason, found.message) == ("WRONG_STATE", "It ends here.")
