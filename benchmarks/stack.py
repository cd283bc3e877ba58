"""Run an embedded stack for a benchmark, as a user would: one process, one folder."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil


@dataclasses.dataclass
class Stack:
    """A running stack."""

    process: psutil.Process
    facts: dict[str, str]
    seconds_to_ready: float

    @property
    def catalog(self) -> str:
        """host:port of the catalog."""
        return self.facts["catalog_address"]

    def tree(self) -> list[psutil.Process]:
        """Return every process of the stack."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return the processor time that the living processes have used."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def idle_share(self, seconds: float) -> float:
        """Return the share of one core that the idle stack uses over a number of seconds."""
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds


@contextlib.contextmanager
def running(home: pathlib.Path, *, workers: int = 2) -> Iterator[Stack]:
    """Start a stack on `home`, and stop it at the end."""
    environment = {**os.environ, "POLYTOK_HOME": str(home)}
    command = [sys.executable, "-m", "services.embedded", "up", "--workers", str(workers)]
    began = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        facts = _await_facts(child, home / "stack.json", began + 120)
        yield Stack(psutil.Process(child.pid), facts, time.perf_counter() - began)
    finally:
        child.terminate()
        child.communicate(timeout=60)


def _await_facts(child: subprocess.Popen[str], path: pathlib.Path, deadline: float) -> dict[str, str]:
    while time.perf_counter() < deadline:
        if child.poll() is not None:
            output = child.stdout.read() if child.stdout else ""
            raise RuntimeError(f"The stack ended with {child.returncode}:\n{output}")
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            facts: dict[str, str] = json.loads(path.read_text())
            return facts
        time.sleep(0.02)
    raise TimeoutError("The stack was not ready in 120 s.")
