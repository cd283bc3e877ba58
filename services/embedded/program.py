"""What the supervisor runs: servers, services, and commands that end by themselves."""

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
"""How the probe of a service begins that cannot use the work queue."""


class Program(Protocol):
    """A process that stays up."""

    name: str
    stop_signal: signal.Signals
    """Asks it to end in good order."""
    force_signal: signal.Signals
    """Ends it at once."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment that it runs in."""

    def prepare(self) -> None:
        """Do what must be done before every start."""

    def command(self) -> list[str]:
        """Return the guarded command line."""

    def is_ready(self) -> bool:
        """Return whether it can be used."""

    def describe(self) -> str:
        """Return where it is, for people."""

    def recover(self) -> str:
        """Do what may help after several starts failed; says what it did, or nothing."""


class Service:
    """A service of ours: `python -m …`."""

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
        """Forget what an earlier process of it announced."""
        self._announcement.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Return the command line of the service."""
        # What it could say goodbye to goes with the supervisor too; leases and epochs make this safe at any time.
        return exec_wrapper.command([sys.executable, "-m", *self._module], on_parent_death=signal.SIGKILL)

    def is_ready(self) -> bool:
        """Return whether the service has announced itself, and its own probe says that it can answer calls."""
        return self._probe("/readyz?exclude=queue")[0] == http.HTTPStatus.OK

    def queue_trouble(self) -> str:
        """Return what the service says is wrong with the work queue, or nothing."""
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
        """Return what the service announced: its address, its port for metrics."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._announcement.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
        return {}

    def recover(self) -> str:
        """Do nothing."""
        return ""

    def describe(self) -> str:
        """Return the address, for a service that has one."""
        return str(self.facts().get("address", ""))
