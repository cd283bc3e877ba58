# ruff: noqa: ASYNC240  small files, and tests wait for them anyway
"""A work queue that answers and does not work: full once, damaged on disk, hiding messages, or away."""

import asyncio
import contextlib
import os
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable

import pytest
from nats.aio.msg import Msg

from services.embedded import nats as nats_servers
from services.embedded import ports
from services.jobs.canary import QueueHealth
from services.jobs.model import JobState
from services.jobs.reconciler import Reconciler
from services.jobs.work_queue import WorkQueue
from services.runtime import messaging
from services.runtime.settings import DatabaseSettings, MessagingSettings
from tests.jobs import job_harness
from tests.jobs.job_harness import JobServiceHarness, JobStoreHarness, task, until
from tests.support import servers

SOON = pytest.mark.parametrize("job_settings", [{"redispatch_seconds": 1}], indirect=True)
"""Tasks may wait for a second."""
QUIET = pytest.mark.parametrize("job_settings", [{"reconcile_seconds": 3600, "redispatch_seconds": 0.1}], indirect=True)

MESSAGE = f".tasks.{job_harness.TASK}.".encode()
"""What is in each message of a task, and in nothing else of the stream's files."""

LIMITED = "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "
LIMITED += "os.execv(sys.argv[2], sys.argv[2:])"


class OwnNats(nats_servers.Nats):
    """A NATS server that the test stops, damages and starts; no file of it grows beyond `file_bytes`."""

    file_bytes = 0

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder, port=ports.free_port(), password=servers.PASSWORD)
        self.running = contextlib.ExitStack()

    def command(self) -> list[str]:
        limit = [sys.executable, "-I", "-S", "-c", LIMITED, str(self.file_bytes)] if self.file_bytes else []
        return [*limit, *super().command()]

    async def start(self) -> None:
        self.prepare()
        await asyncio.to_thread(self.running.enter_context, servers.started(self))

    async def stop(self) -> None:
        await asyncio.to_thread(self.running.close)

    def files(self, *patterns: str) -> list[pathlib.Path]:
        """Files of the stream."""
        streams = self.folder / "jetstream" / "jetstream" / "$G" / "streams"
        return [path for pattern in patterns for path in streams.glob(f"*/{pattern}")]


@pytest.fixture
async def own_nats(request: pytest.FixtureRequest) -> AsyncIterator[OwnNats]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="polytok-test-"))
    folder.chmod(0o711)
    own = OwnNats(folder / "nats")
    own.file_bytes = getattr(request, "param", 0)
    await own.start()
    yield own
    await own.stop()
    shutil.rmtree(folder)


@pytest.fixture
async def own_service(
    own_nats: OwnNats, harness: JobStoreHarness, database_settings: DatabaseSettings
) -> AsyncIterator[JobServiceHarness]:
    async with job_harness.JobServiceHarness(
        harness, database_settings, MessagingSettings(url=own_nats.url)
    ).open() as service:
        yield service


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    for position in random.Random(1).sample(range(len(content)), min(40, len(content))):
        content[position] ^= 0xFF
    path.write_bytes(content)


def spoil_messages(path: pathlib.Path) -> None:
    """Flip bits of every message, but none of a sequence number: NATS counts up to a wrong one for hours.

    How a block is laid out depends on when the canary was sent, so no position in it is a safe one.
    """
    content = path.read_bytes()
    assert MESSAGE in content
    path.write_bytes(content.replace(MESSAGE, bytes(byte ^ 0xFF for byte in MESSAGE)))


def halve(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: pathlib.Path) -> None:
    os.truncate(path, 0)


def remove(path: pathlib.Path) -> None:
    path.unlink()


async def use_consumer(service: JobServiceHarness) -> None:
    """Return the workers' consumer state of its own, ahead of what a stream that lost its files begins with."""
    subjects, client = service.subjects, service.client
    await messaging.ensure_consumer(client, subjects, "records", [job_harness.TASK], ack_seconds=10)
    await client.jetstream().publish(subjects.task(job_harness.TASK, "none"), b"")
    (message,) = await fetch(service, 60)
    await message.ack_sync(timeout=60)


async def fetch(service: JobServiceHarness, seconds: float) -> list[Msg]:
    """Fetch a message as a worker does."""
    consumer = messaging.consumer_name("records")
    pull = await service.client.jetstream().pull_subscribe_bind(stream=service.subjects.stream, consumer=consumer)
    try:
        return await pull.fetch(1, timeout=seconds)
    finally:
        await pull.unsubscribe()


async def connected(service: JobServiceHarness) -> bool:
    return bool(service.client.is_connected)


async def published(service: JobServiceHarness) -> bool:
    return not await service.harness.rows(job_harness.TABLES.outbox.select())


@SOON
@pytest.mark.parametrize("own_nats", [16_384], indirect=True)
async def test_full_stream_is_recreated(own_service: JobServiceHarness, own_nats: OwnNats) -> None:
    """A write that failed once makes the stream refuse all others, without an answer, until it is made again."""
    job_id = await own_service.harness.create(*(task(ordinal=n) for n in range(90)))

    async def full() -> bool:
        return "file too large" in (own_nats.folder / "server.log").read_text()

    await until(full)
    async with own_service.worker():
        assert (await own_service.harness.ended(job_id)).state == JobState.SUCCEEDED


@SOON
@pytest.mark.parametrize(
    ("files", "damage"),
    [
        (("msgs/*.blk",), spoil_messages),
        (("msgs/*.blk", "msgs/index.db"), remove),
        (("msgs/index.db",), halve),
        (("obs/*/o.dat",), flip),
        (("obs/*/meta.inf",), empty),
        (("meta.inf",), flip),
    ],
)
async def test_tasks_of_damaged_queue_run(
    own_service: JobServiceHarness, own_nats: OwnNats, files: tuple[str, ...], damage: Callable[[pathlib.Path], None]
) -> None:
    await use_consumer(own_service)
    waiting = await own_service.harness.create(*(task(ordinal=n) for n in range(5)))
    await until(lambda: published(own_service))
    await own_nats.stop()
    for path in own_nats.files(*files):
        damage(path)
    await own_nats.start()
    async with own_service.worker():
        assert (await own_service.harness.ended(waiting)).state == JobState.SUCCEEDED
        later = await own_service.harness.create(*(task(ordinal=n) for n in range(5)))
        assert (await own_service.harness.ended(later)).state == JobState.SUCCEEDED


@pytest.mark.parametrize("job_settings", [{"redispatch_seconds": 3600}], indirect=True)
async def test_worker_runs_tasks_without_nats(own_service: JobServiceHarness, own_nats: OwnNats) -> None:
    async with own_service.worker():
        await own_nats.stop()
        job_id = await own_service.harness.create(*(task(ordinal=n) for n in range(5)))
        assert (await own_service.harness.ended(job_id)).state == JobState.SUCCEEDED
        await own_nats.start()
        await until(lambda: connected(own_service))


@QUIET
async def test_hidden_message_is_sent_again(own_service: JobServiceHarness, own_nats: OwnNats) -> None:
    """After a flipped bit NATS lists the message, accepts and delivers others, and never delivers this one."""
    await use_consumer(own_service)
    job_id = await own_service.harness.create(task())
    await until(lambda: published(own_service))
    await own_nats.stop()
    for path in own_nats.files("msgs/*.blk"):
        spoil_messages(path)
    await own_nats.start()
    await until(lambda: connected(own_service))
    with pytest.raises(TimeoutError):
        await fetch(own_service, 1)
    queue = WorkQueue(own_service.client, own_service.subjects, "testowner", 1, QueueHealth())
    task_id = await own_service.harness.task_id(job_id)
    assert own_service.subjects.task(job_harness.TASK, task_id) in await queue.pending()

    async def sent_again() -> bool:
        if own_service.client.is_connected:
            await Reconciler(
                own_service.harness.database,
                own_service.harness.store,
                own_service.client,
                own_service.subjects,
                own_service.harness.settings,
            ).reconcile()
        return (await own_service.harness.tasks(job_id))[0].dispatch > 1

    await until(sent_again)


@pytest.mark.parametrize("own_nats", [64], indirect=True)
async def test_broken_queue_is_reported(own_nats: OwnNats) -> None:
    client = await messaging.connect(MessagingSettings(url=own_nats.url), "test")
    health = QueueHealth()
    queue = WorkQueue(client, messaging.Subjects("polytok"), "testowner", 30, health)
    await queue.check()
    assert health.trouble
    await own_nats.stop()
    own_nats.file_bytes = 0
    await own_nats.start()

    async def works() -> bool:
        queue.suspect()
        with contextlib.suppress(OSError):
            await WorkQueue(client, messaging.Subjects("polytok"), "testowner", 30, health).check()
        return not health.trouble

    await until(works)
    await client.close()
