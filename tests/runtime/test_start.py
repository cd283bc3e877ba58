"""A process that fails to start closes what it opened before."""

import contextlib
import pathlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import grpc.aio
import pytest
from nats.aio.client import Client

from polytok import errors
from services.extractor.server import main as extractor
from services.extractor.worker import worker as extractor_worker
from services.records import app
from services.runtime import messaging, process, settings
from services.runtime.rpc import channel, server
from services.tokenizer.worker import worker as tokenizer
from services.trainer.server import main as trainer

Main = Callable[[process.StopSignal], Awaitable[None]]


class Opened:
    """What a process opened."""

    def __init__(self) -> None:
        self.channels: list[grpc.aio.Channel] = []
        self.servers: list[server.Server] = []
        self.clients: list[Client] = []

    def is_closed(self) -> bool:
        """Return whether nothing of it is open any more."""
        return (
            all(each._channel.closed() for each in self.channels)
            and not any(each._server._server.is_running() for each in self.servers)
            and all(each.is_closed for each in self.clients)
        )


@pytest.fixture
async def opened(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    """Record what is opened."""
    found = Opened()
    connect, open_channel, start = messaging.connect, channel.open_channel, server.Server.start

    async def connecting(*arguments: object, **named: object) -> Client:
        found.clients.append(await connect(*arguments, **named))  # type: ignore[arg-type]
        return found.clients[-1]

    def opening(*arguments: object, **named: object) -> grpc.aio.Channel:
        found.channels.append(open_channel(*arguments, **named))  # type: ignore[arg-type]
        return found.channels[-1]

    async def starting(self: server.Server) -> int:
        found.servers.append(self)
        return await start(self)

    monkeypatch.setattr(messaging, "connect", connecting)
    monkeypatch.setattr(channel, "open_channel", opening)
    monkeypatch.setattr(server.Server, "start", starting)
    monkeypatch.setenv("POLYTOK_DATABASE_URL", "postgresql://polytok@127.0.0.1:1/polytok")
    for name in ("CATALOG", "EXTRACTOR"):
        monkeypatch.setenv(f"POLYTOK_{name}_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("POLYTOK_GRPC_HOST", "127.0.0.1")
    monkeypatch.setenv("POLYTOK_GRPC_PORT", "0")
    yield found
    for each in found.channels:
        await each.close()
    for running in found.servers:
        await running.drain()
    for client in found.clients:
        await messaging.close(client)


@pytest.fixture
def taken() -> Iterator[int]:
    """Yield a port that another process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def storage_root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTOK_STORAGE_ROOT", str(tmp_path))


@pytest.mark.usefixtures("storage_root")
@pytest.mark.parametrize("variable", ["POLYTOK_METRICS_PORT", "POLYTOK_GRPC_PORT"])
@pytest.mark.parametrize(("main", "channels"), [(extractor.main, 1), (trainer.main, 2)])
async def test_an_owner_whose_port_is_taken(
    opened: Opened, taken: int, monkeypatch: pytest.MonkeyPatch, main: Main, channels: int, variable: str
) -> None:
    monkeypatch.setenv("POLYTOK_METRICS_HOST", "127.0.0.1")
    monkeypatch.setenv(variable, str(taken))
    with pytest.raises(errors.PolytokError, match=variable):
        await main(process.StopSignal())
    assert (len(opened.channels), len(opened.servers)) == (channels, 1)
    assert opened.is_closed()


async def test_an_owner_that_cannot_be_made(opened: Opened) -> None:
    def make(_: settings.ServerSettings, stack: contextlib.AsyncExitStack) -> app.RecordApp:
        connected = channel.open_channel("127.0.0.1:1", service="test")
        stack.push_async_callback(connected.close)
        raise errors.InvalidArgument("POLYTOK_DATABASE_URL is wrong.")

    with pytest.raises(errors.InvalidArgument, match="is wrong"):
        await app.serve(process.StopSignal(), make, telemetry=settings.TelemetrySettings(), name="test")
    assert len(opened.channels) == 1
    assert opened.is_closed()


@pytest.mark.usefixtures("storage_root")
@pytest.mark.parametrize(("main", "servers"), [(tokenizer.main, 1), (extractor_worker.run, 0)])
async def test_a_worker_whose_port_is_taken(
    opened: Opened,
    taken: int,
    messaging_settings: settings.MessagingSettings,
    monkeypatch: pytest.MonkeyPatch,
    main: Main,
    servers: int,
) -> None:
    monkeypatch.setenv("POLYTOK_NATS_URL", messaging_settings.url)
    monkeypatch.setenv("POLYTOK_METRICS_HOST", "127.0.0.1")
    monkeypatch.setenv("POLYTOK_METRICS_PORT", str(taken))
    with pytest.raises(errors.PolytokError, match="POLYTOK_METRICS_PORT"):
        await main(process.StopSignal())
    assert (len(opened.channels), len(opened.servers), len(opened.clients)) == (1, servers, 1)
    assert opened.is_closed()
