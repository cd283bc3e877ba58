"""Whole embedded stacks for tests, as a user starts them."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.embedded import exec_wrapper, services
from tests.support.servers import await_condition

START_SECONDS = 150.0
STOP_SECONDS = 120.0
"""A machine that does much else is slow, and nobody waits longer than it takes."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """A stack that is ready."""

    home: pathlib.Path
    process: subprocess.Popen[bytes]
    output: pathlib.Path

    @property
    def facts(self) -> dict[str, Any]:
        """What the stack tells about itself."""
        found: dict[str, Any] = json.loads((self.home / "stack.json").read_text())
        return found

    def is_ready(self) -> bool:
        """Return whether this stack, not one that was killed on the same home, has published how to reach it."""
        try:
            return bool(self.facts["pid"] == self.process.pid)
        except FileNotFoundError:
            return False

    def is_complete(self) -> bool:
        """Return whether what starts once the stack is ready has come up too, and no process is on its way."""
        facts = self.facts
        late = {process.name for process in services.processes(1) if process.late}
        return late <= facts["pids"].keys() and all(facts["pids"].values()) and all(facts["metrics_ports"].values())

    @property
    def catalog_address(self) -> str:
        """host:port of the catalog."""
        return str(self.facts["catalog_address"])

    @property
    def env(self) -> dict[str, str]:
        """The environment in which clients and the command line find this stack."""
        return {**os.environ, "POLYTOK_HOME": str(self.home), "POLYTOK_CATALOG_ADDRESS": self.catalog_address}


@contextlib.contextmanager
def new_home() -> Iterator[pathlib.Path]:
    """Yield a home that does not exist yet; it is removed afterwards."""
    parent = pathlib.Path(tempfile.mkdtemp(prefix="polytok-test-"))
    parent.chmod(0o711)
    try:
        yield parent / "home"
    finally:
        shutil.rmtree(parent)


@contextlib.contextmanager
def started(
    home: pathlib.Path,
    *,
    workers: int = 1,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    await_ready: bool = True,
) -> Iterator[Stack]:
    """Start a stack; yield it once it is ready, and stop it at the end unless the test has."""
    output = home.parent / "output.log"
    arguments = ["-m", "services.embedded", "up", "--home", str(home), "--workers", str(workers)]
    command = exec_wrapper.command([sys.executable, *arguments], on_parent_death=signal.SIGTERM)
    with output.open("wb") as log:
        process = subprocess.Popen(
            [*prefix, *command], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    stack = Stack(home, process, output)
    try:
        if await_ready:
            await_condition(
                lambda: stack.is_ready() or process.poll() is not None, "the stack is ready", seconds=START_SECONDS
            )
            if process.poll() is not None:
                raise AssertionError(f"the stack ended with {process.returncode}: {output.read_text()}")
        yield stack
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(STOP_SECONDS)
