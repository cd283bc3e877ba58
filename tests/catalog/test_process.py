"""The catalog's process: how it starts, what it says when it cannot, how it stops; and that it serves without NATS."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from polytok import channels
from polytok.catalog.v1 import datasets_pb2, datasets_pb2_grpc
from services.runtime import settings
from tests.catalog import harness
from tests.support.messages import check_names

SERVE = [sys.executable, "-m", "services.catalog", "serve"]


def _environment(**variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POLYTOK_")}
    return {**kept, **variables}


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, ("POLYTOK_DATABASE_URL",)),
        ({"POLYTOK_DATABASE_URL": "mysql://x/y"}, ("POLYTOK_DATABASE_URL", "postgresql://")),
        ({"POLYTOK_DATABASE_URL": "postgresql://x/y"}, ("POLYTOK_STORAGE_ROOT",)),
    ],
)
def test_bad_configuration_is_one_line(variables, names):
    ended = subprocess.run(
        SERVE, check=False, env=_environment(**variables), capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    check_names(line, *names)


def test_an_unknown_command_is_refused():
    ended = subprocess.run(
        [sys.executable, "-m", "services.catalog", "server"], check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    check_names(ended.stderr, "'server'", "serve")


async def test_it_announces_itself_serves_and_drains(migrated_database_settings, messaging_settings, tmp_path):
    announcement = tmp_path / "announcement.json"
    process = await asyncio.create_subprocess_exec(
        *SERVE,
        env=_environment(
            POLYTOK_DATABASE_URL=migrated_database_settings.url,
            POLYTOK_NATS_URL=messaging_settings.url,
            POLYTOK_NATS_NAMESPACE=messaging_settings.namespace,
            POLYTOK_STORAGE_ROOT=str(tmp_path / "storage"),
            POLYTOK_READY_FILE=str(announcement),
        ),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        while not announcement.exists():
            assert process.returncode is None, await process.stderr.read()
            await asyncio.sleep(0.05)
    facts = json.loads(announcement.read_text())
    assert set(facts) == {"address", "metrics"}
    async with channels.open_async_channel(facts["address"]) as channel:
        stub = datasets_pb2_grpc.DatasetServiceStub(channel)
        assert await stub.ListDatasets(datasets_pb2.ListDatasetsRequest()) == datasets_pb2.ListDatasetsResponse()
    reader, writer = await asyncio.open_connection("127.0.0.1", facts["metrics"])
    writer.write(b"GET /readyz HTTP/1.1\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    events = [json.loads(line) for line in log.decode().splitlines() if line.startswith("{")]
    assert {event["service"] for event in events} == {"catalog"}
    assert "drained" in {event["event"] for event in events}


async def test_without_nats_it_serves_all_the_same(database, migrated_database_settings, storage, unused_port):
    away = settings.MessagingSettings(url=f"nats://127.0.0.1:{unused_port}", namespace="away")
    async with harness.run_catalog(database, migrated_database_settings, away, storage) as catalog:
        created = await catalog.create_dataset("docs")
        # A worker that gets the task by other means can do it: the database decides.
        await harness.FakeWorker(catalog).ingest("docs")
        stream = catalog.datasets.WatchDataset(datasets_pb2.WatchDatasetRequest(name=created.name))
        assert [each.dataset.state async for each in stream] == [datasets_pb2.Dataset.STATE_READY]


@pytest.fixture
def unused_port():
    """Return a port that nobody listens on."""
    from services.embedded import ports

    return ports.free_port()
