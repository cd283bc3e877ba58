"""The programs that the supervisor runs: servers and services."""

import contextlib
import http.client
import json
import pathlib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from services.embedded import exec_wrapper

_PROBE_SECONDS = 5.0
_QUEUE = "not ready: queue: "
"""The first words of a service's probe when the service cannot use the work queue."""


class Program(Protocol):
    """A long-running process."""

    name: str
    stop_signal: signal.Signals
    """Signal that stops it gracefully."""
    force_signal: signal.Signals
    """Signal that kills it."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables of the process."""

    def prepare(self) -> None:
        """Prepare a start. Called before each one."""

    def command(self) -> list[str]:
        """Return the command line, wrapped by `exec_wrapper`."""

    def is_ready(self) -> bool:
        """Return whether it is ready for use."""

    def describe(self) -> str:
        """Return its address, for display."""

    def recover(self) -> str:
        """Try to recover after several failed starts. Return what was done, or an empty string."""


class Service:
    """One of Polytok's services: `python -m …`."""

    stop_signal = signal.SIGTERM
    force_signal = signal.SIGKILL

    def __init__(
        self, name: str, module: Sequence[str], environment: Mapping[str, str], *, announcements: pathlib.Path
    ) -> None:
        self.name = name
        self._module = module
        self._announcement = announcements / f"{name}.json"
        self.environment = {**environment, "POLYTOK_READY_FILE": str(self._announcement)}

    def prepare(self) -> None:
        """Remove the ready file of an earlier process."""
        self._announcement.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Return the command line of the service."""
        # When the supervisor dies, so do its peers; leases and epochs make a kill safe at any time.
        return exec_wrapper.command([sys.executable, "-m", *self._module], on_parent_death=signal.SIGKILL)

    def is_ready(self) -> bool:
        """Return whether the service has written its ready file, and its own probe says that it can answer calls."""
        return self._probe("/readyz?exclude=queue")[0] == http.HTTPStatus.OK

    def queue_trouble(self) -> str:
        """Return the problem with the work queue that the service reports, or an empty string."""
        _, text = self._probe("/readyz")
        return text.removeprefix(_QUEUE).strip() if text.startswith(_QUEUE) else ""

    def _probe(self, path: str) -> tuple[int, str]:
        port = self.facts().get("metrics")
        if not isinstance(port, int):
            return 0, ""
        probe = http.client.HTTPConnection("127.0.0.1", port, timeout=_PROBE_SECONDS)
        try:
            probe.request("GET", path)
            answer = probe.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            probe.close()

    def facts(self) -> dict[str, Any]:
        """Return the content of the ready file: the address and the metrics port."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._announcement.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
        return {}

    def recover(self) -> str:
        """Do nothing."""
        return ""

    def describe(self) -> str:
        """Return the address of a service that has one."""
        return str(self.facts().get("address", ""))
