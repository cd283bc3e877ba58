# ruff: noqa: ASYNC110, ASYNC220  what is awaited happens in other processes
"""The child process, from its worker's side: real processes, no queue and no database."""

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from polytok import errors
from polytok.errors import codec
from polytok.jobs.v1 import messages_pb2
from services.jobs import failures
from services.jobs.task_process import TaskProcess, TaskProcessFailed
from tests.jobs.payloads import TASK_PROCESS_PROGRAM, pack, unpack
from tests.support.processes import is_alive


@pytest.fixture
async def child() -> AsyncIterator[TaskProcess]:
    child = TaskProcess([sys.executable, str(TASK_PROCESS_PROGRAM)], service="fake-task-process")
    await child.start()
    yield child
    await child.kill()


async def do(child: TaskProcess, do: str, *, epoch: int = 1, resume_point: bytes = b"", **facts: object):
    """Have the child do a task; return its events."""
    await child.send(
        messages_pb2.TaskCommand(
            task_id=str(uuid.uuid4()),
            epoch=epoch,
            kind="test.run",
            payload=pack(do=do, **facts),
            resume_point=resume_point,
        )
    )
    events = []
    while True:
        event = await child.receive()
        events.append(event)
        if event is None or event.WhichOneof("event") in ("result", "error"):
            return events


async def gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while is_alive(pid):
            await asyncio.sleep(0.01)


async def test_one_process_does_one_task_after_another(child: TaskProcess) -> None:
    results = [unpack((await do(child, "echo", say=word))[-1].result) for word in ("one", "two")]
    assert [result["said"] for result in results] == ["one", "two"]
    assert {result["pid"] for result in results} == {child.pid}


async def test_the_task_knows_its_tag_and_where_it_left_off(child: TaskProcess) -> None:
    result = unpack((await do(child, "echo", epoch=7, resume_point=b"row 12"))[-1].result)
    assert result["resumed"] == "row 12"
    assert result["tag"].endswith("-e7")
    assert len(result["tag"].partition("-")[0]) == 12


async def test_reports_come_a_few_times_a_second_and_in_order(child: TaskProcess) -> None:
    started = time.monotonic()
    events = await do(child, "work", seconds=1)
    seconds = time.monotonic() - started
    done = [event.progress.done for event in events[:-1]]
    assert done == sorted(done)
    assert 4 <= len(done) <= seconds / 0.1 + 2
    assert done[-1] == 100


@pytest.mark.parametrize(
    ("doing", "reason", "message", "retryable"),
    [
        ("refuse", "COLUMN_NOT_FOUND", "The column is not there; choose another.", False),
        ("crash", "INTERNAL", "ValueError", True),
        ("full", "DISK_FULL", "disk", True),
    ],
)
async def test_errors_are_typed(child: TaskProcess, doing: str, reason: str, message: str, retryable: bool) -> None:
    error = (await do(child, doing))[-1].error
    assert (error.reason, error.retryable) == (reason, retryable)
    assert message in error.message
    assert (await do(child, "echo"))[-1].result, "the process goes on"


async def test_an_error_comes_whole(child: TaskProcess) -> None:
    for kind in codec.CODES:
        event = (await do(child, "fail_as", kind=kind.__name__))[-1]
        found = failures.from_task_error(event.error)
        assert type(found) is kind
        assert vars(found) == {
            "message": "It is so.",
            "reason": "WRONG_STATE",
            "metadata": {"resource": "x"},
            "violations": (errors.FieldViolation("a.b", "is wrong"),),
            "retryable": not kind.default_retryable,
        }


async def test_an_unknown_kind_is_an_error(child: TaskProcess) -> None:
    await child.send(messages_pb2.TaskCommand(task_id=str(uuid.uuid4()), kind="test.other", payload=pack(do="echo")))
    event = await child.receive()
    assert event is not None
    assert not event.error.retryable


async def test_what_a_task_prints_does_not_disturb(child: TaskProcess) -> None:
    # More than any pipe holds, on both: had nobody taken it, the task would hang.
    assert (await do(child, "shout"))[-1].result


async def test_large_results_come_whole(child: TaskProcess) -> None:
    said = "word " * 4_000_000
    assert unpack((await do(child, "echo", say=said))[-1].result)["said"] == said


async def test_memory_limit_fails_task() -> None:
    child = TaskProcess(
        [sys.executable, str(TASK_PROCESS_PROGRAM)], service="fake-task-process", memory_bytes=300 << 20
    )
    await child.start()
    try:
        assert unpack((await do(child, "eat", size=50 << 20))[-1].result)["size"] == 50 << 20
        error = (await do(child, "eat", size=1 << 30))[-1].error
        assert error.reason == "WORKER_LOST"
        assert "memory" in error.message
    finally:
        await child.kill()


@pytest.mark.parametrize(
    ("doing", "end"),
    [({"do": "kill"}, "SIGKILL"), ({"do": "leave", "code": 3}, "3")],
)
async def test_child_exit_is_reported(child: TaskProcess, doing: dict, end: str) -> None:
    assert await do(child, **doing) == [None]
    assert child.end().split()[-1] == end
    assert not child.alive
    await child.start()
    assert (await do(child, "echo"))[-1].result


async def test_kill_takes_along_what_the_task_started(child: TaskProcess, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pid"
    working = asyncio.create_task(do(child, "spawn", path=str(path)))
    async with asyncio.timeout(60):
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0.01)
    pids = [child.pid, int(path.read_text())]
    await child.kill()
    assert await working == [None]
    for pid in pids:
        await gone(pid)


async def test_idle_child_stops_on_request(child: TaskProcess) -> None:
    pid = child.pid
    await child.stop()
    assert child.end().split()[-1] == "0"
    await gone(pid)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([sys.executable, "-c", "raise SystemExit(4)"], r"\b4\b"),
        (
            [sys.executable, "-c", "import os; os.write(int(os.environ['POLYTOK_CHILD_FD']), b'hello world')"],
            "did not start",
        ),
        (["/no/such/program"], "/no/such/program"),
    ],
)
async def test_a_child_that_does_not_come_up_is_an_error(command: list[str], words: str) -> None:
    child = TaskProcess(command, service="fake-task-process")
    with pytest.raises(TaskProcessFailed, match=words):
        await child.start()
    assert not child.alive


async def test_a_child_dies_with_its_worker(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pids"
    program = f"""
import asyncio, os, pathlib, sys
sys.path.insert(0, {str(pathlib.Path(__file__).parents[2])!r})
from services.jobs.task_process import TaskProcess
from polytok.jobs.v1 import messages_pb2
from tests.jobs.payloads import pack
async def main():
    child = TaskProcess([sys.executable, {str(TASK_PROCESS_PROGRAM)!r}], service="fake-task-process")
    await child.start()
    await child.send(messages_pb2.TaskCommand(task_id="x", kind="test.run", payload=pack(do="work", seconds=60)))
    await child.receive()
    pathlib.Path({str(path)!r}).write_text(str(child.pid))
    await asyncio.sleep(600)
asyncio.run(main())
"""
    worker = subprocess.Popen([sys.executable, "-c", program])
    try:
        async with asyncio.timeout(60):
            while not path.exists() or not path.read_text():
                await asyncio.sleep(0.01)
        pid = int(path.read_text())
        assert is_alive(pid)
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    await gone(pid)
