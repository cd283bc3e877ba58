"""Errors cross the wire as what they are, and defects tell nothing but an id."""

import re

import grpc
import grpc.aio
import pytest

from polytok import errors
from polytok.errors import codec
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.runtime import settings
from services.runtime.rpc import channel, server, status
from tests.runtime.conftest import Context, Leases, failure, raising


@pytest.mark.parametrize("kind", list(codec.CODES))
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


async def test_internal_error_carries_only_log_id(
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


async def test_a_very_long_error_still_arrives(served: server.Server, leases: Leases) -> None:
    # By a client with the limits that gRPC has by itself: 8 KiB of metadata.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as plain:
        for text in ("…", "x"):
            violations = [errors.FieldViolation(f"field[{place}]", text * 150) for place in range(100)]
            metadata = {f"key-{place}": text * 100 for place in range(3)}
            leases.answer = raising(errors.InvalidArgument(text * 100_000, violations=violations, metadata=metadata))
            error = await failure(leases_pb2_grpc.LeaseServiceStub(plain))
            assert type(error) is errors.InvalidArgument
            assert error.message.startswith(text * 500)
            kept, last = error.violations[:-1], error.violations[-1]
            assert list(kept) == violations[: len(kept)]
            assert (last.field, re.findall(r"\d+", last.description)) == ("", [str(100 - len(kept))])
            assert error.metadata == metadata


def test_a_record_keeps_more_than_headers_hold() -> None:
    violations = [errors.FieldViolation(f"saes[{place}].hook", "is not there" * 5) for place in range(64)]
    sent = errors.InvalidArgument("no", violations=violations, metadata={str(place): "x" * 500 for place in range(9)})
    assert vars(codec.from_message(codec.to_message(sent))) == vars(sent)
    headers = codec.from_status(codec.to_status(sent))
    assert headers is not None
    assert len(headers.violations) < 64
    assert int(headers.metadata[codec.OMITTED]) == 9 - (len(headers.metadata) - 1)


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


def test_a_status_names_our_domain() -> None:
    made = status.to_status(errors.NotFound("none"))
    assert made.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert b"polytok.dev" in made.details[0].value
