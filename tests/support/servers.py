"""Real servers for tests, each in a folder of its own that goes with it."""

import contextlib
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from services.embedded import nats, ports, postgres

Server = TypeVar("Server", postgres.Postgres, nats.Nats)

START_SECONDS = 120.0
ATTEMPTS = 3
PASSWORD = "for-tests-only"


def await_condition(condition: Callable[[], bool], what: str, *, seconds: float = START_SECONDS) -> None:
    """Wait until `condition` holds; fails, saying what did not happen, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {seconds:g} s: {what}")
        time.sleep(0.01)


@contextlib.contextmanager
def started(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Run a prepared server; yield its process once it is ready, and stop it at the end."""
    with pathlib.Path(server.folder, "server.log").open("ab") as log:
        process = subprocess.Popen(
            server.command(), env=server.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        await_condition(lambda: server.is_ready() or process.poll() is not None, f"{server.name} is ready")
        if process.poll() is not None:
            raise OSError(f"{server.name} ended: {pathlib.Path(server.folder, 'server.log').read_text()}")
        yield process
    finally:
        process.send_signal(server.stop_signal)
        process.wait(START_SECONDS)


@contextlib.contextmanager
def running(make: Callable[[pathlib.Path, int], Server]) -> Iterator[Server]:
    """Run a server on a free port, over a folder that is removed afterwards."""
    # Not under pytest's own folder: its path gets long, and only its owner may pass through it.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="polytok-test-"))
    folder.chmod(0o711)
    try:
        with contextlib.ExitStack() as stack:
            for attempt in range(1, ATTEMPTS + 1):
                server = make(folder / "server", ports.free_port())
                server.prepare()
                try:
                    stack.enter_context(started(server))
                    break
                except OSError:  # somebody else took the port meanwhile
                    if attempt == ATTEMPTS:
                        raise
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)
