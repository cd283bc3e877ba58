"""POLYTOK_HOME: the one folder that holds all state of an embedded stack.

stack.lock     held while a stack, or what is left of one, runs here
stack.json     how to reach the running stack; absent while none is ready
secrets.json   the servers' passwords
postgres/      the database
nats/          the queue
data/          datasets and tokenizations
logs/          one log for each process
run/           where each service says that it is ready
"""

import contextlib
import json
import os
import pathlib
import secrets
from typing import Any

import platformdirs

from polytok import errors
from services.embedded import folders


class Home:
    """The folders and files of an embedded stack."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root.absolute()
        self.lock = self.root / "stack.lock"
        self.stack = self.root / "stack.json"
        self.secrets = self.root / "secrets.json"
        self.postgres = self.root / "postgres"
        self.nats = self.root / "nats"
        self.data = self.root / "data"
        self.logs = self.root / "logs"
        self.run = self.root / "run"

    def create(self) -> None:
        """Makes the folders that are missing."""
        try:
            # Others may pass through, not look: the servers' user must reach its folders below.
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            folders.check_owner(self.root)
            for folder in (self.data, self.logs, self.run):
                folder.mkdir(exist_ok=True)
                folders.hand_over(folder)
        except OSError as error:
            raise errors.FailedPrecondition(
                f"Cannot make the data folder {self.root}: {error.strerror}. Choose another with POLYTOK_HOME or "
                "--home."
            ) from error

    def passwords(self) -> dict[str, str]:
        """The servers' passwords; made at the first start."""
        if not self.secrets.exists():
            if (self.postgres / "data").exists():
                raise errors.FailedPrecondition(
                    f"{self.secrets} is gone, and the database in {self.postgres} cannot be opened without the "
                    "passwords in it. Put the file back, or remove the folder to start anew."
                )
            made = {name: secrets.token_urlsafe(24) for name in ("postgres", "nats")}
            folders.write_private(self.secrets, json.dumps(made) + "\n")
        found: dict[str, str] = json.loads(self.secrets.read_text())
        return found

    def publish(self, facts: dict[str, Any]) -> None:
        """Tells the world how to reach the stack."""
        folders.write_private(self.stack, json.dumps(facts, indent=2) + "\n")

    def withdraw(self) -> None:
        """Takes back what `publish`, here or in a stack that was killed, has told."""
        with contextlib.suppress(FileNotFoundError):
            self.stack.unlink()


def default() -> pathlib.Path:
    """POLYTOK_HOME, else the folder for data of this user."""
    named = os.environ.get("POLYTOK_HOME")
    return pathlib.Path(named).expanduser() if named else platformdirs.user_data_path("polytok")
