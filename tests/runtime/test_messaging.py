"""The work queue and its consumers on a real NATS."""

import asyncio
import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import nats.aio.client
import pytest
from nats.js import api
from nats.js.errors import NotFoundError

from services.embedded import nats as nats_servers
from services.embedded import ports
from services.runtime import messaging, settings
from tests.support import servers


@pytest.fixture
def subjects(messaging_settings: settings.MessagingSettings) -> messaging.Subjects:
    return messaging.Subjects(messaging_settings.namespace)


def test_subjects() -> None:
    subjects = messaging.Subjects("my-lab")
    assert subjects.task("tokenize.shard", "t") == "my-lab.tasks.tokenize.shard.t"
    assert subjects.kind("tokenize.shard") == "my-lab.tasks.tokenize.shard.*"
    assert subjects.tasks == ["my-lab.tasks.>"]
    assert subjects.progress("t") == "my-lab.progress.t"
    assert subjects.stop("j") == "my-lab.stop.j"
    assert subjects.stream == "MY_LAB_TASKS"


async def test_the_stream_is_made_and_made_again(
    nats_client: nats.aio.client.Client, subjects: messaging.Subjects
) -> None:
    with pytest.raises(NotFoundError):
        await nats_client.jsm().stream_info(subjects.stream)
    await messaging.ensure_stream(nats_client, subjects)
    await messaging.ensure_stream(nats_client, subjects)
    config = (await nats_client.jsm().stream_info(subjects.stream)).config
    assert config.retention == api.RetentionPolicy.WORK_QUEUE
    assert config.storage == api.StorageType.FILE
    assert config.max_msgs_per_subject == 1
    assert config.duplicate_window == 120


async def test_a_stream_made_otherwise_is_brought_in_line(
    nats_client: nats.aio.client.Client, subjects: messaging.Subjects
) -> None:
    await nats_client.jsm().add_stream(
        name=subjects.stream, subjects=subjects.tasks, retention=api.RetentionPolicy.WORK_QUEUE
    )
    await messaging.ensure_stream(nats_client, subjects)
    config = (await nats_client.jsm().stream_info(subjects.stream)).config
    assert config.max_msgs_per_subject == 1


async def test_a_pool_gets_its_kinds_only(nats_client: nats.aio.client.Client, subjects: messaging.Subjects) -> None:
    await messaging.ensure_stream(nats_client, subjects)
    await messaging.ensure_consumer(
        nats_client, subjects, "tokenizer", ["tokenize.shard", "model.inspect"], ack_seconds=60
    )
    await messaging.ensure_consumer(
        nats_client, subjects, "tokenizer", ["tokenize.shard", "tokenize.publish"], ack_seconds=9
    )
    await messaging.ensure_consumer(nats_client, subjects, "ingest", ["ingest.read"], ack_seconds=9)
    jetstream = nats_client.jetstream()
    for kind in ("ingest.read", "tokenize.shard", "tokenize.publish"):
        await jetstream.publish(subjects.task(kind, "t1"), kind.encode())
    pull = await jetstream.pull_subscribe_bind(stream=subjects.stream, consumer=messaging.consumer_name("tokenizer"))
    messages = await pull.fetch(2, timeout=60)
    assert {message.data for message in messages} == {b"tokenize.shard", b"tokenize.publish"}
    with pytest.raises(TimeoutError):
        await pull.fetch(1, timeout=0.2)
    for message in messages:
        await message.ack_sync()
    info = await nats_client.jsm().stream_info(subjects.stream)
    assert info.state.messages == 1
    consumer = await nats_client.jsm().consumer_info(subjects.stream, messaging.consumer_name("tokenizer"))
    assert consumer.config.ack_wait == 9


async def test_newer_message_replaces_pending_one(
    nats_client: nats.aio.client.Client, subjects: messaging.Subjects
) -> None:
    await messaging.ensure_stream(nats_client, subjects)
    jetstream = nats_client.jetstream()
    for dispatch in ("1", "2", "2"):
        await jetstream.publish(
            subjects.task("tokenize.shard", "t1"), dispatch.encode(), headers={"Nats-Msg-Id": f"t1:{dispatch}"}
        )
    info = await nats_client.jsm().stream_info(subjects.stream)
    assert (info.state.messages, info.state.last_seq) == (1, 2)


@pytest.fixture
def absent_server() -> Iterator[nats_servers.Nats]:
    """Yield a NATS server that is ready to be started."""
    # Not under pytest's own folder: the server gives its rights up, and cannot pass through that.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="polytok-test-"))
    folder.chmod(0o711)
    server = nats_servers.Nats(folder / "server", port=ports.free_port(), password=servers.PASSWORD)
    server.prepare()
    yield server
    shutil.rmtree(folder)


async def test_connecting_waits_for_the_server(absent_server: nats_servers.Nats) -> None:
    waiting = asyncio.create_task(messaging.connect(settings.MessagingSettings(url=absent_server.url), "early"))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, servers.started(absent_server))
        async with asyncio.timeout(60):
            client = await waiting
            await client.flush()
        await client.close()


def test_the_password_stays_out_of_the_settings_repr(nats_server: nats_servers.Nats) -> None:
    assert nats_server.url not in repr(settings.MessagingSettings(url=nats_server.url))


async def test_cancelled_connect_leaves_no_socket_open() -> None:
    accepted: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait(reader)
        # The end of what the client sends: it closed its socket.
        await reader.read()
        writer.close()
        closed.set()

    closed = asyncio.Event()
    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"nats://127.0.0.1:{port}"
        connecting = asyncio.create_task(messaging.connect(settings.MessagingSettings(url=url), "test"))
        await accepted.get()
        connecting.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait({connecting})
            await closed.wait()
    assert connecting.cancelled()
