"""What the supervisor runs: servers, services, and commands that end by themselves."""

import contextlib
import http.client
import json
import pathlib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from services.embedded import guard

_PROBE_SECONDS = 5.0


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
        """Does what must be done before every start."""

    def command(self) -> list[str]:
        """The guarded command line."""

    def is_ready(self) -> bool:
        """Tells whether it can be used."""

    def describe(self) -> str:
        """Where it is, for people."""


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
        self.environment = {**environment, "POLYTOK_ANNOUNCE": str(self._announcement)}

    def prepare(self) -> None:
        """Forgets what an earlier process of it announced."""
        self._announcement.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """The command line of the service."""
        # What it could say goodbye to goes with the supervisor too; leases and epochs make this safe at any time.
        return guard.command([sys.executable, "-m", *self._module], on_parent_death=signal.SIGKILL)

    def is_ready(self) -> bool:
        """Tells whether the service has announced itself, and its own probe says that it can work."""
        port = self.facts().get("metrics")
        if port is None:
            return False
        probe = http.client.HTTPConnection("127.0.0.1", port, timeout=_PROBE_SECONDS)
        try:
            probe.request("GET", "/readyz?exclude=queue")
            return probe.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            probe.close()

    def facts(self) -> dict[str, Any]:
        """What the service announced: its address, its port for metrics."""
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads(self._announcement.read_text())
            return found
        return {}

    def describe(self) -> str:
        """The address, for a service that has one."""
        return str(self.facts().get("address", ""))
