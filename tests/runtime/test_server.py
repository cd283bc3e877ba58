"""What every server does around the handlers: validation, errors, deadlines, metrics, health, reflection, drain."""

import asyncio
import json
import pathlib
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry import trace

from polytok import errors, transport
from polytok.catalog.v1 import datasets_pb2, datasets_pb2_grpc
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.runtime import settings
from services.runtime.rpc import channel, server, status
from services.runtime.telemetry import metrics, tracing
from tests.runtime.conftest import EXTEND, SERVICE, TASK, Answer, Context, Leases

METHOD = f"/{SERVICE}/ExtendLease"


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
    return transport.from_rpc_error(caught.value)


def raising(error: Exception) -> Answer:
    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        raise error

    return answer


async def test_an_answer(stub: leases_pb2_grpc.LeaseServiceStub) -> None:
    assert await stub.ExtendLease(EXTEND) == leases_pb2.ExtendLeaseResponse()


async def test_a_bad_request_never_reaches_the_handler(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    error = await failure(stub, leases_pb2.ExtendLeaseRequest(task_id="x", epoch=0))
    assert isinstance(error, errors.InvalidArgument)
    assert error.reason == "INVALID_FIELD"
    assert [violation.field for violation in error.violations] == ["task_id", "epoch"]
    assert leases.calls == 0


@pytest.mark.parametrize("kind", list(transport.CODES))
async def test_each_error_comes_out_as_it_went_in(
    stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases, kind: type[errors.PolytokError]
) -> None:
    sent = kind(
        "naïve…",
        reason="WRONG_STATE",
        metadata={"holder": "x"},
        violations=[errors.FieldViolation("a.b", "is wrong")],
        retryable=not kind.default_retryable,
    )
    leases.answer = raising(sent)
    got = await failure(stub)
    assert type(got) is kind
    assert vars(got) == vars(sent)


async def test_an_error_of_a_subclass(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    leases.answer = raising(settings.ConfigurationError("no"))
    assert type(await failure(stub)) is errors.InvalidArgument


async def test_a_defect_tells_an_id_that_is_in_the_log_and_nothing_else(
    stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases, capsys: pytest.CaptureFixture[str]
) -> None:
    leases.answer = raising(RuntimeError("hunter2"))
    error = await failure(stub)
    assert type(error) is errors.Internal
    assert "hunter2" not in error.message
    logged = capsys.readouterr().err
    assert error.metadata["id"] in error.message
    assert error.metadata["id"] in logged
    assert "RuntimeError" in logged


async def test_a_very_long_error_still_arrives(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    violation = errors.FieldViolation("field", "…" * 5000)
    leases.answer = raising(errors.InvalidArgument("…" * 100_000, violations=[violation] * 100))
    error = await failure(stub)
    assert type(error) is errors.InvalidArgument
    assert error.message.startswith("……")
    assert len(error.violations) == 10


async def test_a_failed_call_to_another_service_is_passed_on(
    stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases
) -> None:
    async with channel.open_channel("127.0.0.1:1", service="test") as nobody:
        away = leases_pb2_grpc.LeaseServiceStub(nobody)

        async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
            return await away.ExtendLease(request, timeout=0.1)

        leases.answer = answer
        error = await failure(stub)
    assert isinstance(error, errors.Unavailable | errors.DeadlineExceeded)


async def test_an_abort_of_the_handler_is_left_alone(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        await context.abort(grpc.StatusCode.NOT_FOUND, "none")

    leases.answer = answer
    error = await failure(stub)
    assert (type(error), error.message) == (errors.NotFound, "none")


async def test_a_deadline_cancels_the_handler(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    cancelled = asyncio.Event()

    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    leases.answer = answer
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ExtendLease(EXTEND, timeout=0.05)
    assert isinstance(transport.from_rpc_error(caught.value), errors.DeadlineExceeded)
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_a_caller_without_a_deadline_gets_one(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "DEADLINE_SECONDS", 0.05)

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
    assert "0.05 s" in error.message
    await running.drain()


async def test_our_client_sends_a_deadline(stub: leases_pb2_grpc.LeaseServiceStub, leases: Leases) -> None:
    seen: list[float] = []

    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        seen.append(context.time_remaining())
        return leases_pb2.ExtendLeaseResponse()

    leases.answer = answer
    await stub.ExtendLease(EXTEND)
    await stub.ExtendLease(EXTEND, timeout=5)
    assert transport.DEADLINE_SECONDS - 10 < seen[0] <= transport.DEADLINE_SECONDS + 1
    assert seen[1] < 6


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
    error = transport.from_rpc_error(caught.value)
    assert isinstance(error, errors.FailedPrecondition)
    assert "version" in error.message


async def test_a_large_message_passes_and_a_larger_one_does_not(
    peer: grpc.aio.Channel, stub: leases_pb2_grpc.LeaseServiceStub
) -> None:
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


async def test_draining_lets_a_call_end_and_refuses_the_next(leases: Leases) -> None:
    go = asyncio.Event()

    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        await go.wait()
        return leases_pb2.ExtendLeaseResponse()

    leases.answer = answer
    running = server.Server(settings.ServerSettings(drain_seconds=30), service="test")
    running.add(leases_pb2_grpc.add_LeaseServiceServicer_to_server, leases, SERVICE)
    address = f"127.0.0.1:{await running.start()}"
    async with channel.open_channel(address, service="test") as opened:
        call = asyncio.ensure_future(leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND))
        await leases.entered.wait()
        draining = asyncio.create_task(running.drain())
        await asyncio.sleep(0)
        async with grpc.aio.insecure_channel(address) as late:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await leases_pb2_grpc.LeaseServiceStub(late).ExtendLease(EXTEND, timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not call.done()
        go.set()
        assert await call == leases_pb2.ExtendLeaseResponse()
        async with asyncio.timeout(10):
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
        call = asyncio.ensure_future(leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND, timeout=30))
        await leases.entered.wait()
        async with asyncio.timeout(10):
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
    running = server.Server(settings.ServerSettings(drain_seconds=30), service="test")
    running.add(datasets_pb2_grpc.add_DatasetServiceServicer_to_server, datasets, "polytok.catalog.v1.DatasetService")
    await running.start()
    yield running, datasets
    await running.drain()


async def test_a_stream_is_validated_and_its_errors_are_mapped(watched: tuple[server.Server, Datasets]) -> None:
    running, _ = watched
    async with channel.open_channel(f"127.0.0.1:{running.port}", service="test") as opened:
        stub = datasets_pb2_grpc.DatasetServiceStub(opened)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.WatchDataset(datasets_pb2.WatchDatasetRequest(name="../x")).read()
        assert isinstance(transport.from_rpc_error(caught.value), errors.InvalidArgument)
        call = stub.WatchDataset(datasets_pb2.WatchDatasetRequest(name="datasets/broken"))
        assert await call.read() == datasets_pb2.WatchDatasetResponse()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert transport.from_rpc_error(caught.value).message == "gone"


async def test_a_watcher_that_leaves_frees_the_handler(watched: tuple[server.Server, Datasets]) -> None:
    running, datasets = watched
    async with channel.open_channel(f"127.0.0.1:{running.port}", service="test") as opened:
        call = datasets_pb2_grpc.DatasetServiceStub(opened).WatchDataset(
            datasets_pb2.WatchDatasetRequest(name="datasets/docs")
        )
        await call.read()
        call.cancel()
        async with asyncio.timeout(10):
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
        async with asyncio.timeout(10):
            await running.drain()
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    error = transport.from_rpc_error(caught.value)
    assert isinstance(error, errors.Unavailable)
    assert "stopping" in error.message
    assert datasets.ended.is_set()


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
from tests.runtime.conftest import EXTEND, SERVICE, Leases
from tests.runtime.test_server import failure, raising

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


def test_a_status_names_our_domain() -> None:
    made = status.to_status(errors.NotFound("none"))
    assert made.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert b"polytok.dev" in made.details[0].value
