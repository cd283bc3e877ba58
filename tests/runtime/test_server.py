"""What every server does around the handlers: validation, errors, deadlines, metrics, health, reflection, drain."""

import asyncio
import json
import pathlib
import subprocess
import sys

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry import trace

from polytok import channels, errors
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.runtime import settings
from services.runtime.rpc import server
from services.runtime.telemetry import metrics, tracing
from tests.runtime.conftest import EXTEND, SERVICE, TASK, Context, Leases, failure, raising

METHOD = f"/{SERVICE}/ExtendLease"


async def test_an_answer(stub: leases_pb2_grpc.LeaseServiceStub) -> None:
    assert await stub.ExtendLease(EXTEND) == leases_pb2.ExtendLeaseResponse()


async def test_a_bad_request_never_reaches_the_handler(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    error = await failure(stub, leases_pb2.ExtendLeaseRequest(task_id="x", epoch=0))
    assert isinstance(error, errors.InvalidArgument)
    assert error.reason == "INVALID_FIELD"
    assert [violation.field for violation in error.violations] == ["task_id", "epoch"]
    assert leases.calls == 0


async def test_a_deadline_cancels_the_handler(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    reached, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    leases.answer = answer
    for seconds in (0.1, 1, 10, 100):  # a machine that does much else reaches no handler in the first
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ExtendLease(EXTEND, timeout=seconds)
        assert isinstance(channels.from_rpc_error(caught.value), errors.DeadlineExceeded)
        if reached.is_set():
            break
    async with asyncio.timeout(60):
        await cancelled.wait()


async def test_a_caller_without_a_deadline_gets_one(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "DEADLINE_SECONDS", 0.05)

    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        await asyncio.Event().wait()
        raise AssertionError

    leases.answer = answer
    running = server.Server(settings.ServerSettings(), service="test")
    running.add(leases_pb2_grpc.add_LeaseServiceServicer_to_server, leases, SERVICE)
    # A bare client, as grpcurl is.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await running.start()}") as bare:
        error = await failure(leases_pb2_grpc.LeaseServiceStub(bare))
    assert isinstance(error, errors.DeadlineExceeded)
    assert "0.05" in error.message
    await running.drain()


async def test_our_client_sends_a_deadline(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    seen: list[float] = []

    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        seen.append(context.time_remaining())
        return leases_pb2.ExtendLeaseResponse()

    leases.answer = answer
    await stub.ExtendLease(EXTEND)
    await stub.ExtendLease(EXTEND, timeout=channels.DEADLINE_SECONDS / 2)
    # How long a call is on its way is the machine's affair: the default is the longer of the two.
    assert 0 < seen[0] <= channels.DEADLINE_SECONDS + 1
    assert 0 < seen[1] <= channels.DEADLINE_SECONDS / 2 + 1


async def test_the_trace_of_the_caller_is_that_of_the_handler(
    stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases
) -> None:
    seen: list[int] = []

    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        return leases_pb2.ExtendLeaseResponse()

    leases.answer = answer
    with tracing.span("caller") as span:
        await stub.ExtendLease(EXTEND)
    await stub.ExtendLease(EXTEND)
    assert seen[0] == span.get_span_context().trace_id
    assert seen[1] not in {0, seen[0]}


def measured(code: str) -> float:
    labels = {"method": METHOD, "code": code}
    return metrics.REGISTRY.get_sample_value("polytok_rpc_server_seconds_count", labels) or 0


async def test_calls_are_measured(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    before = {code: measured(code) for code in ("OK", "ABORTED")}
    await stub.ExtendLease(EXTEND)
    leases.answer = raising(errors.Aborted("lost"))
    await failure(stub)
    assert {code: measured(code) - count for code, count in before.items()} == {"OK": 1, "ABORTED": 1}
    assert metrics.REGISTRY.get_sample_value("polytok_rpc_server_running", {"method": METHOD}) == 0


async def test_health(served: server.Server, peer: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(peer)

    async def check(service: str) -> int:
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)

    assert await check("") == await check(SERVICE) == health_pb2.HealthCheckResponse.SERVING
    await served.set_serving(False)
    assert await check("") == await check(SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check("nobody")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection(peer: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(peer)

    async def ask(request: reflection_pb2.ServerReflectionRequest) -> reflection_pb2.ServerReflectionResponse:
        async for response in stub.ServerReflectionInfo(iter([request])):
            return response
        raise AssertionError

    listed = await ask(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert SERVICE in {each.name for each in listed.list_services_response.service}
    found = await ask(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))
    assert found.file_descriptor_response.file_descriptor_proto


async def test_an_unknown_method(peer: grpc.aio.Channel) -> None:
    call = peer.unary_unary(f"/{SERVICE}/Nothing", request_serializer=bytes, response_deserializer=bytes)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    error = channels.from_rpc_error(caught.value)
    assert isinstance(error, errors.FailedPrecondition)
    assert "version" in error.message


async def test_message_size_limit(peer: grpc.aio.Channel, stub: leases_pb2_grpc.LeaseServiceStub) -> None:
    request = leases_pb2.CompleteTaskRequest(task_id=TASK, epoch=1)
    request.result.value = bytes(60 << 20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CompleteTask(request)
    # The handler was reached, and is not there.
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    request.result.value = bytes(65 << 20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CompleteTask(request)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_port_in_use_names_its_variable(served: server.Server) -> None:
    second = server.Server(settings.ServerSettings(port=served.port), service="test")
    with pytest.raises(settings.ConfigurationError, match="POLYTOK_GRPC_PORT"):
        await second.start()


async def test_requests_are_logged_by_their_outcome(tmp_path: pathlib.Path) -> None:
    script = """
import asyncio, sys
from polytok import errors
from polytok.jobs.v1 import leases_pb2_grpc
from services.runtime import process, settings
from services.runtime.rpc import channel, server
from services.runtime.telemetry import logging
from tests.runtime.conftest import EXTEND, SERVICE, Leases, failure, raising

async def main(stop):
    logging.configure(settings.TelemetrySettings(log_level=sys.argv[1]), "test")
    leases = Leases()
    running = server.Server(settings.ServerSettings(), service="test")
    running.add(leases_pb2_grpc.add_LeaseServiceServicer_to_server, leases, SERVICE)
    async with channel.open_channel(f"127.0.0.1:{await running.start()}", service="test") as opened:
        stub = leases_pb2_grpc.LeaseServiceStub(opened)
        await stub.ExtendLease(EXTEND)
        leases.answer = raising(errors.Aborted("lost"))
        await failure(stub)
        leases.answer = raising(errors.DataLoss("bad"))
        await failure(stub)
    await running.drain()

process.run(main)
"""

    async def calls(level: str) -> list[tuple[str, str]]:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, level, stderr=subprocess.PIPE, cwd=pathlib.Path(__file__).parents[2]
        )
        _, text = await child.communicate()
        assert child.returncode == 0, text.decode()
        lines = [json.loads(line) for line in text.splitlines()]
        assert all(line["trace_id"] for line in lines if line["event"] == "call")
        return [(line["level"], line["code"]) for line in lines if line["event"] == "call"]

    assert await calls("info") == [("info", "ABORTED"), ("warning", "DATA_LOSS")]
    assert await calls("debug") == [("debug", "OK"), ("info", "ABORTED"), ("warning", "DATA_LOSS")]
