"""The extractor's processes: what they say when they cannot start, how the server serves and stops, what it loads."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polytok import channels, errors
from polytok.extractor.v1 import extractions_pb2, extractions_pb2_grpc
from services.extractor.server.migrations.schema import runner
from tests.extractor.harness import expect_error
from tests.support import messages

SERVE = [sys.executable, "-m", "services.extractor", "serve"]
SERVICE = "polytok.extractor.v1.ExtractionService"


def _environment(**variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POLYTOK_")}
    return {**kept, **variables}


@pytest.mark.parametrize(
    ("command", "variables", "names"),
    [
        ("serve", {}, ["POLYTOK_CATALOG_ADDRESS", "not set"]),
        ("work", {}, ["POLYTOK_EXTRACTOR_ADDRESS", "not set"]),
        ("work", {"POLYTOK_EXTRACTOR_ADDRESS": "nowhere"}, ["POLYTOK_EXTRACTOR_ADDRESS", "pattern"]),
    ],
)
def test_bad_configuration_is_one_line(command, variables, names):
    ended = subprocess.run(
        [*SERVE[:-1], command],
        check=False,
        env=_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    messages.check_names(line, *names)


def test_neither_server_nor_worker_loads_torch():
    code = (
        "import sys, services.extractor.server.main, services.extractor.worker.worker\n"
        "print([name for name in ('torch', 'transformers', 'pyarrow', 'datasets') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


async def test_it_serves_without_catalog_and_queue_and_drains(database_settings, tmp_path):
    from services.embedded import ports

    await asyncio.to_thread(runner.upgrade, database_settings)
    announcement = tmp_path / "announcement.json"
    process = await asyncio.create_subprocess_exec(
        *SERVE,
        env=_environment(
            POLYTOK_DATABASE_URL=database_settings.url,
            POLYTOK_NATS_URL=f"nats://127.0.0.1:{ports.free_port()}",
            POLYTOK_CATALOG_ADDRESS=f"127.0.0.1:{ports.free_port()}",
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
    async with channels.open_async_channel(facts["address"]) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = extractions_pb2_grpc.ExtractionServiceStub(channel)
        found = await stub.ListExtractions(extractions_pb2.ListExtractionsRequest())
        assert found == extractions_pb2.ListExtractionsResponse()
        create = extractions_pb2.CreateExtractionRequest(
            dataset="datasets/docs",
            model="models/gpt2",
            parameters=extractions_pb2.ExtractionParameters(hooks=["blocks.0.hook_mlp_out"]),
        )
        async with expect_error(errors.Unavailable, "UNAVAILABLE") as caught:
            await stub.CreateExtraction(create, timeout=60)
        assert caught[0].retryable
        messages.check_names(caught[0].message.lower(), "catalog")
        wrong = extractions_pb2.CreateExtractionRequest(dataset="docs", model="models/gpt2")
        async with expect_error(errors.InvalidArgument, "INVALID_FIELD") as caught:
            await stub.CreateExtraction(wrong)
        assert {each.field for each in caught[0].violations} >= {"dataset", "parameters"}
    reader, writer = await asyncio.open_connection("127.0.0.1", facts["metrics"])
    writer.write(b"GET /readyz HTTP/1.1\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0
    events = [json.loads(line) for line in log.decode().splitlines() if line.startswith("{")]
    assert {event["service"] for event in events} == {"extractor"}
    assert "drained" in {event["event"] for event in events}
