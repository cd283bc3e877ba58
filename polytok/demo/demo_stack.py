"""The stack of the demo: the running one, or one that is started for the duration of the demo."""

import collections
import contextlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from polytok import errors
from polytok.client import discovery

READY_SECONDS = 120
STOP_SECONDS = 60
ALREADY_RUNS = 3


class Stack:
    """A stack that runs or is starting."""

    def __init__(self, process: subprocess.Popen[str] | None) -> None:
        self._process = process
        self._output: collections.deque[str] = collections.deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def is_ours(self) -> bool:
        """Whether this process started the stack and stops it."""
        return self._process is not None

    def address(self) -> str:
        """Return the catalog's address once the stack is ready."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            facts = discovery.stack()
            if facts is not None:
                return str(facts["catalog_address"])
            if self._process is not None and self._process.poll() not in {None, ALREADY_RUNS}:
                self._listener.join(timeout=5)
                raise errors.Unavailable("The stack failed to start:\n" + "\n".join(self._output), retryable=False)
            time.sleep(0.05)
        raise errors.DeadlineExceeded(f"The stack in {discovery.folder()} was not ready within {READY_SECONDS} s.")

    def stop(self) -> None:
        """Drain and stop the stack, if this process started it."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGTERM)  # a second signal forces
            self._process.wait()
        self._listener.join(timeout=5)

    def _listen(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            for line in self._process.stdout:
                self._output.append(line.rstrip())


@contextlib.contextmanager
def running() -> Iterator[Stack]:
    """Yield the stack on POLYTOK_HOME, starting one if none runs."""
    stack = Stack(None if discovery.stack() is not None else _start())
    try:
        yield stack
    finally:
        stack.stop()


def _start() -> subprocess.Popen[str]:
    """Start a stack that stops whenever this process ends; it receives Ctrl-C only through this process."""
    guard = importlib.util.find_spec("services.embedded.exec_wrapper")
    if guard is None or guard.origin is None:
        raise errors.FailedPrecondition(
            "This installation cannot run a stack. Install it with `pip install 'polytok[demo]'`."
        )
    guarded = [sys.executable, "-I", "-S", guard.origin, str(int(signal.SIGTERM)), str(os.getpid()), "-", "--"]
    return subprocess.Popen(
        [*guarded, sys.executable, "-m", "services.embedded", "up", "--home", str(discovery.folder())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def folder() -> pathlib.Path:
    """Return the folder of the demo's corpus and models."""
    return discovery.folder() / "demo"
