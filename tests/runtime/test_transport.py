"""Channels: retries, deadlines, TLS, and gRPC's own failures in words."""

import asyncio
import errno
import json
import os
import pathlib
import subprocess

import grpc
import grpc.aio
import pytest

from polytok import channels, errors
from polytok.jobs.v1 import leases_pb2, leases_pb2_grpc
from services.embedded import ports
from services.runtime import settings
from services.runtime.rpc import channel, server
from tests.runtime.conftest import EXTEND, SERVICE, Context, Leases


async def test_a_call_is_tried_again_while_the_peer_is_away(served: server.Server, leases: Leases) -> None:
    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        if leases.calls < 3:
            raise errors.Unavailable("not now")
        return leases_pb2.ExtendLeaseResponse()

    leases.answer = answer
    async with channels.open_async_channel(f"127.0.0.1:{served.port}") as opened:
        await leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND)
    assert leases.calls == 3


async def test_no_other_failure_is_tried_again(served: server.Server, leases: Leases) -> None:
    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        raise errors.Aborted("lost")

    leases.answer = answer
    async with channels.open_async_channel(f"127.0.0.1:{served.port}") as opened:
        with pytest.raises(grpc.aio.AioRpcError):
            await leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND)
    assert leases.calls == 1


def test_retries_have_an_end() -> None:
    [config] = json.loads(channels.service_config())["methodConfig"]
    assert config["retryPolicy"]["maxAttempts"] == 4
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_client_keepalive_is_within_server_limit() -> None:
    options = dict(channels.channel_options())
    assert options["grpc.keepalive_time_ms"] > dict(server._OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"]


async def test_a_proxy_is_not_asked_for_this_machine(
    served: server.Server, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        return leases_pb2.ExtendLeaseResponse()

    leases.answer = answer
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{ports.free_port()}")
    async with channels.open_async_channel(f"127.0.0.1:{served.port}") as opened:
        await leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND)
    assert leases.calls == 1


async def test_no_server_at_the_address() -> None:
    async with channels.open_async_channel(f"127.0.0.1:{ports.free_port()}") as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND)
    error = channels.from_rpc_error(caught.value)
    assert isinstance(error, errors.Unavailable)
    assert error.retryable
    assert "address" in error.message


async def test_a_deadline_that_passes(served: server.Server, leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: leases_pb2.ExtendLeaseRequest, context: Context) -> leases_pb2.ExtendLeaseResponse:
        await asyncio.Event().wait()
        raise AssertionError

    leases.answer = answer
    monkeypatch.setattr(channels, "DEADLINE_SECONDS", 0.1)

    def synchronously() -> errors.PolytokError:
        with channels.open_channel(f"127.0.0.1:{served.port}") as opened:
            with pytest.raises(grpc.RpcError) as caught:
                leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND)
            return channels.from_rpc_error(caught.value)

    error = await asyncio.to_thread(synchronously)
    assert isinstance(error, errors.DeadlineExceeded)
    assert "may have been executed" in error.message
    async with channels.open_async_channel(f"127.0.0.1:{served.port}") as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND)
    assert isinstance(channels.from_rpc_error(caught.value), errors.DeadlineExceeded)


async def test_synchronous_errors_are_the_same(served: server.Server) -> None:
    def call() -> errors.PolytokError:
        with channels.open_channel(f"127.0.0.1:{served.port}") as opened:
            stub = leases_pb2_grpc.LeaseServiceStub(opened)
            stub.ExtendLease(EXTEND)
            with pytest.raises(grpc.RpcError) as caught:
                stub.ExtendLease(leases_pb2.ExtendLeaseRequest())
            return channels.from_rpc_error(caught.value)

    error = await asyncio.to_thread(call)
    assert isinstance(error, errors.InvalidArgument)
    assert {violation.field for violation in error.violations} == {"task_id", "epoch"}


def test_publishing_may_take_longer() -> None:
    assert channels.deadline_seconds(f"/{SERVICE}/CompleteTask") > channels.DEADLINE_SECONDS
    assert channels.deadline_seconds(f"/{SERVICE}/ExtendLease") == channels.DEADLINE_SECONDS


def openssl(folder: pathlib.Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return an authority, and certificates signed by it for a server on 127.0.0.1 and for a client."""
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    for name, extension in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")):
        (folder / f"{name}.ext").write_text(extension)
        openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem", "-days", "2")
    openssl(folder, "req", "-x509", *key, "-keyout", "other.key", "-out", "other.pem", "-subj", "/CN=other authority")
    return folder


async def secure(leases: Leases, certificates: pathlib.Path, client_ca: str = "") -> server.Server:
    running = server.Server(
        settings.ServerSettings(
            tls_certificate=str(certificates / "server.pem"),
            tls_key=str(certificates / "server.key"),
            tls_client_ca=client_ca,
        ),
        service="test",
    )
    running.add(leases_pb2_grpc.add_LeaseServiceServicer_to_server, leases, SERVICE)
    await running.start()
    return running


async def extend(opened: grpc.aio.Channel) -> None:
    async with opened:
        await leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND, timeout=60)


async def test_tls(leases: Leases, certificates: pathlib.Path) -> None:
    running = await secure(leases, certificates)
    address = f"127.0.0.1:{running.port}"
    await extend(channel.open_channel(address, tls_ca=str(certificates / "ca.pem"), service="test"))
    for other in (
        channel.open_channel(address, tls_ca=str(certificates / "other.pem"), service="test"),
        channel.open_channel(address, service="test"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await extend(other)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert leases.calls == 1

    def synchronously() -> None:
        with channels.open_channel(address, str(certificates / "ca.pem")) as opened:
            leases_pb2_grpc.LeaseServiceStub(opened).ExtendLease(EXTEND)

    await asyncio.to_thread(synchronously)
    assert leases.calls == 2
    await running.drain()


async def test_tls_with_client_certificates(leases: Leases, certificates: pathlib.Path) -> None:
    ca = str(certificates / "ca.pem")
    running = await secure(leases, certificates, client_ca=ca)
    address = f"127.0.0.1:{running.port}"
    with pytest.raises(grpc.aio.AioRpcError):
        await extend(channel.open_channel(address, tls_ca=ca, service="test"))
    assert leases.calls == 0
    await extend(
        channel.open_channel(
            address,
            tls_ca=ca,
            tls_certificate=str(certificates / "client.pem"),
            tls_key=str(certificates / "client.key"),
            service="test",
        )
    )
    assert leases.calls == 1
    await running.drain()


async def test_a_missing_certificate_file_is_named(tmp_path: pathlib.Path) -> None:
    missing = str(tmp_path / "none.pem")
    with pytest.raises(errors.InvalidArgument, match=rf"none\.pem .*{os.strerror(errno.ENOENT)}"):
        channels.open_async_channel("127.0.0.1:1", missing)
    running = server.Server(settings.ServerSettings(tls_certificate=missing, tls_key=missing), service="test")
    with pytest.raises(errors.InvalidArgument, match=rf"none\.pem .*{os.strerror(errno.ENOENT)}"):
        await running.start()
