"""Commands on a terminal, and commands that are interrupted."""

import asyncio
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

import polytok
from polytok import errors
from polytok.cli.render import progress
from polytok.cli.render.output import Output
from polytok.client import watch_stream
from tests.client import samples

if TYPE_CHECKING:
    from tests.support.stacks import Stack

PROGRAM = pathlib.Path(sys.executable).with_name("polytok")


def _on_a_terminal(
    stack: "Stack", *arguments: str | pathlib.Path, typed: bytes = b"", columns: int = 120
) -> tuple[int, str]:
    controller, terminal = pty.openpty()
    environment = {**stack.env, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"}
    process = subprocess.Popen([PROGRAM, *arguments], env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    os.write(controller, typed)
    output = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:  # what Linux says when the last writer has gone
            break
        if not chunk:
            break
        output += chunk
    os.close(controller)
    return process.wait(120), output.decode()


def test_bars_and_tables(stack: "Stack", documents: pathlib.Path) -> None:
    name = samples.unique("docs")
    code, output = _on_a_terminal(stack, "dataset", "add", name, documents)
    assert code == 0
    assert "100 %" in output
    assert "╭" in output
    assert "\x1b[" in output


def test_bars_beside_json(stack: "Stack", documents: pathlib.Path) -> None:
    code, output = _on_a_terminal(stack, "dataset", "add", samples.unique("docs"), documents, "--json")
    assert code == 0
    assert "100 %" in output
    assert '"state": "READY"' in output


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_names_are_whole_at_any_width(stack: "Stack", ready: tuple[str, str], columns: int) -> None:
    dataset, model = ready
    for kind, name in (("dataset", dataset), ("model", model)):
        code, output = _on_a_terminal(stack, kind, "list", columns=columns)
        plain = re.sub("\x1b\\[[0-9;]*m", "", output)
        assert code == 0
        assert re.search(rf"│ {name} +│ READY +│", plain)
        assert max(map(len, plain.splitlines())) <= max(columns, 100)
        hidden = re.findall("Not shown at this width: (.*)\\. A wider", plain.replace("\r\n", " "))
        assert hidden or columns == 140


def test_delete_asks_on_a_terminal(stack: "Stack", ready: tuple[str, str], documents: pathlib.Path) -> None:
    name, (_, model) = samples.unique("docs"), ready
    with polytok.Client(stack.catalog_address) as client:
        client.datasets.create(name, files=documents)
        client.datasets.wait(name, timeout=120)
        client.tokenizations.create(name, model, variant="one")
        client.tokenizations.wait(name, model, variant="one", timeout=120)
        code, output = _on_a_terminal(stack, "dataset", "delete", name, "--force", typed=b"n\n")
        assert code != 0
        assert f"datasets/{name}" in output
        assert f"{model}~one" in output
        assert watch_stream.state(client.datasets.get(name)) == "READY"
        assert _on_a_terminal(stack, "tokenization", "delete", name, model, "--variant", "one", typed=b"y\n")[0] == 0
        assert list(client.tokenizations.list(name)) == []
        assert _on_a_terminal(stack, "dataset", "delete", name, "--yes")[0] == 0
        with pytest.raises(errors.NotFound):
            client.datasets.get(name)


@pytest.fixture
def idle_ingest(stack: "Stack") -> Iterator[None]:
    """Yield the ingest worker takes no task for as long as the test runs."""
    worker = stack.facts["pids"]["ingest"]
    os.kill(worker, signal.SIGSTOP)
    yield
    os.kill(worker, signal.SIGCONT)


@pytest.mark.usefixtures("idle_ingest")
def test_interrupted_watch_leaves_the_work_going(stack: "Stack", documents: pathlib.Path) -> None:
    name = samples.unique("docs")
    process = subprocess.Popen(
        [PROGRAM, "dataset", "add", name, documents],
        env=stack.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "`watch`" in out
    assert "`cancel`" in out
    assert "Traceback" not in err
    with polytok.Client(stack.catalog_address) as client:
        assert watch_stream.state(client.datasets.get(name)) == "PENDING"
        assert watch_stream.state(client.datasets.cancel(name)) == "CANCELLED"
        with pytest.raises(errors.Cancelled):
            client.datasets.wait(name, timeout=120)


def test_an_interrupt_that_another_thread_gets_is_heard() -> None:
    """So is one that comes just before the event loop goes to sleep: neither wakes it by itself."""
    woken: list[str] = []

    async def versions(_: polytok.AsyncClient) -> AsyncIterator[None]:
        asyncio.get_running_loop().call_later(60, woken.append, "by the clock")
        threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)).start()
        await asyncio.Event().wait()
        yield

    with pytest.raises(KeyboardInterrupt):
        progress.follow(Output(as_json=True), "127.0.0.1:1", [versions])
    assert woken == []
