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

import json
import os
import pathlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import platformdirs

from polytok import errors
from services.embedded import folders

_PASSWORDS = ("postgres", "nats")

Replace = Callable[[str, Mapping[str, str]], None]
"""Has the servers take new passwords, told what is wrong with the file of the old ones."""


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
        self._published = ""

    def create(self) -> None:
        """Make the folders that are missing."""
        try:
            # Others may pass through, not look: the servers' user must reach its folders below.
            if not self.root.is_dir():
                self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
                folders.sync(self.root.parent)
            folders.check_owner(self.root)
            for folder in (self.data, self.logs, self.run):
                folder.mkdir(exist_ok=True)
                folders.hand_over(folder)
            folders.sync(self.root)
        except OSError as error:
            raise errors.FailedPrecondition(
                f"Cannot make the data folder {self.root}: {error.strerror}. Choose another with POLYTOK_HOME or "
                "--home."
            ) from error

    def passwords(self, replace: Replace | None = None) -> dict[str, str]:
        """Return the servers' passwords, made at the first start.

        Where the file is lost or damaged and there is a database, `replace` is called with what is wrong and new
        passwords, and has the database take its own; only then is the file written. A crash between the two repeats
        that at the next start. NATS takes its password from its configuration at every start.
        """
        found, trouble = self._read()
        if not trouble:
            return found
        made = {name: secrets.token_urlsafe(24) for name in _PASSWORDS}
        if (self.postgres / "data").exists():
            try:
                if replace is None:
                    raise errors.FailedPrecondition("Nothing here gives the database another.")
                replace(trouble, made)
            except errors.PolytokError as error:
                raise errors.FailedPrecondition(
                    f"{self.secrets} {trouble}: the password of the database in {self.postgres} is lost, and it could "
                    f"not be given a new one: {' '.join(error.message.split())} Put {self.secrets.name} back from a "
                    "copy, or choose another POLYTOK_HOME."
                ) from error
        folders.write_private(self.secrets, json.dumps(made) + "\n")
        return made

    def _read(self) -> tuple[dict[str, str], str]:
        """Return the passwords in the file, and what is wrong with it, or nothing."""
        try:
            text = self.secrets.read_text(encoding="utf-8")
            found = json.loads(text) if text.strip() else None
        except FileNotFoundError:
            return {}, "is gone"
        except OSError as error:
            raise errors.FailedPrecondition(
                f"{self.secrets} cannot be read: {error.strerror}. Let the user who starts Polytok read it."
            ) from error
        except (ValueError, RecursionError):
            return {}, "is damaged: it is not the JSON that was written"
        if found is None:
            return {}, "is empty"
        if isinstance(found, dict) and all(isinstance(found.get(name), str) and found[name] for name in _PASSWORDS):
            return found, ""
        return {}, "is damaged: passwords are missing in it"

    def publish(self, facts: dict[str, Any]) -> None:
        """Tell the world how to reach the stack."""
        self._published = json.dumps(facts, indent=2) + "\n"
        folders.write_private(self.stack, self._published)

    def is_published(self) -> bool:
        """Return whether what `publish` wrote is still there, and whole."""
        try:
            return self.stack.read_text(encoding="utf-8") == self._published
        except (OSError, ValueError):
            return False

    def withdraw(self) -> None:
        """Take back what `publish`, here or in a stack that was killed, has told."""
        self.stack.unlink(missing_ok=True)


def default() -> pathlib.Path:
    """POLYTOK_HOME, else the folder for data of this user."""
    named = os.environ.get("POLYTOK_HOME")
    return pathlib.Path(named).expanduser() if named else platformdirs.user_data_path("polytok")
