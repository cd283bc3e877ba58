"""The worker process, `python -m services.tokenizer`."""

import asyncio
import json
import os
import pathlib
import signal
import sys
import time
import urllib.error
import urllib.request

import pytest

from services.runtime import messaging
from services.runtime.settings import MessagingSettings
from tests.support.messages import words

COMMAND = (sys.executable, "-m", "services.tokenizer")
KINDS = ("model.inspect", "tokenize.shard", "tokenize.publish")


def environment(**changes: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POLYTOK_")}
    return clean | {"POLYTOK_CATALOG_ADDRESS": "127.0.0.1:1", "POLYTOK_LOG_LEVEL": "warning"} | changes


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({}, "POLYTOK_STORAGE_ROOT"),
        ({"POLYTOK_STORAGE_ROOT": "/x", "POLYTOK_TOKENIZER_THREADS": "many"}, "POLYTOK_TOKENIZER_THREADS"),
        ({"POLYTOK_CATALOG_ADDRESS": "nowhere"}, "POLYTOK_CATALOG_ADDRESS"),
    ],
)
async def test_wrong_settings_are_one_line(changes: dict[str, str], setting: str) -> None:
    process = await asyncio.create_subprocess_exec(*COMMAND, stderr=asyncio.subprocess.PIPE, env=environment(**changes))
    _, said = await process.communicate()
    assert process.returncode == 1
    assert setting in words(said.decode())
    assert said.decode().count("\n") == 1


def status_of(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def wait_until_ready(announced: pathlib.Path) -> None:
    deadline = time.monotonic() + 60
    while not (announced.exists() and status_of(json.loads(announced.read_text())["metrics"]) == 200):
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_it_gets_ready_and_leaves_on_sigterm(
    messaging_settings: MessagingSettings, tmp_path: pathlib.Path
) -> None:
    client = await messaging.connect(messaging_settings, "test")
    subjects = messaging.Subjects(messaging_settings.namespace)
    await messaging.ensure_stream(client, subjects)
    await messaging.ensure_consumer(client, subjects, "tokenizer", KINDS, ack_seconds=60)
    announced = tmp_path / "announced.json"
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        env=environment(
            POLYTOK_NATS_URL=messaging_settings.url,
            POLYTOK_NATS_NAMESPACE=messaging_settings.namespace,
            POLYTOK_STORAGE_ROOT=str(tmp_path / "data"),
            POLYTOK_READY_FILE=str(announced),
        ),
    )
    try:
        await asyncio.to_thread(wait_until_ready, announced)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await client.close()
