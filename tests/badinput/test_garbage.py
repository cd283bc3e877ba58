"""Messages on the queue that none of our services wrote: a worker logs them, counts them on /metrics and continues."""

import asyncio
import urllib.request
import uuid
from typing import TYPE_CHECKING

import nats
import pytest

from polytok.jobs.v1 import messages_pb2
from services.runtime import messaging
from tests.support.servers import await_condition

if TYPE_CHECKING:
    from tests.support.stacks import Stack

SUBJECTS = messaging.Subjects("polytok")
HALF = messages_pb2.TaskMessage(task_id="no uuid", kind="tokenize.shard", owner="catalog").SerializeToString()


async def publish(stack: "Stack", subject: str, content: bytes) -> None:
    client = await nats.connect(stack.facts["nats_url"])
    try:
        await client.jetstream().publish(subject, content)
    finally:
        await client.close()


async def waiting(stack: "Stack") -> int:
    """Return how many messages the queue holds."""
    client = await nats.connect(stack.facts["nats_url"])
    try:
        return int((await client.jetstream().stream_info(SUBJECTS.stream)).state.messages)
    finally:
        await client.close()


def counted(stack: "Stack") -> float:
    """Return how many messages the worker discarded."""
    port = stack.facts["metrics_ports"]["tokenizer-1"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("polytok_worker_garbage_total"))


def log(stack: "Stack") -> list[str]:
    return (stack.home / "logs" / "tokenizer-1.log").read_text().splitlines()


@pytest.mark.parametrize("content", [b"\xff\xfe not a message of ours", b"", HALF], ids=["bytes", "nothing", "half"])
def test_garbage_on_the_queue(stack: "Stack", content: bytes) -> None:
    before = counted(stack)
    subject = SUBJECTS.task("tokenize.shard", uuid.uuid4())
    asyncio.run(publish(stack, subject, content))
    await_condition(lambda: counted(stack) == before + 1, "the worker discarded it")
    await_condition(lambda: asyncio.run(waiting(stack)) == 0, "the queue holds it no longer")
    (line,) = [line for line in log(stack) if subject in line]
    assert "error" in line


def test_message_for_an_unknown_task(stack: "Stack") -> None:
    before = counted(stack)
    task = messages_pb2.TaskMessage(task_id=str(uuid.uuid4()), kind="tokenize.shard", owner="catalog", dispatch=1)
    asyncio.run(publish(stack, SUBJECTS.task(task.kind, task.task_id), task.SerializeToString()))
    await_condition(lambda: any(task.task_id in line for line in log(stack)), "the worker asked for it in vain")
    await_condition(lambda: asyncio.run(waiting(stack)) == 0, "the queue holds it no longer")
    (line,) = [line for line in log(stack) if task.task_id in line]
    assert "RESOURCE_NOT_FOUND" in line
    assert counted(stack) == before
