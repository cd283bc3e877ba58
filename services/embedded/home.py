"""POLYTOK_HOME: the one folder that holds all state of an embedded stack.

stack.lock     held while a stack, or what is left of one, runs here
stack.json     how to reach the running stack; absent while none is ready
secrets.json   the servers' passwords
postgres/      the database
nats/          the queue
data/          files of datasets, tokenizations, extractions and trainings
logs/          one log per process
run/           ready files: one per service, written when it is ready
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
"""Set new passwords on the servers. Called with what is wrong with secrets.json and the new passwords."""


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
        """Create the missing folders."""
        try:
            # Others may traverse the folder but not list it: the servers' user must reach its own folders below.
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
                f"Cannot create the data folder {self.root}: {error.strerror}. Choose another one with POLYTOK_HOME or "
                "--home."
            ) from error

    def passwords(self, replace: Replace | None = None) -> dict[str, str]:
        """Return the servers' passwords, which are generated at the first start.

        If the file is missing or damaged and a database exists, call `replace` with the problem and new passwords, so
        that the database takes its new one, and write the file only afterwards. A crash in between repeats this at the
        next start. NATS reads its password from its configuration at every start.
        """
        found, trouble = self._read()
        if not trouble:
            return found
        made = {name: secrets.token_urlsafe(24) for name in _PASSWORDS}
        if (self.postgres / "data").exists():
            try:
                if replace is None:
                    raise errors.FailedPrecondition("No way to reset the database password is available here.")
                replace(trouble, made)
            except errors.PolytokError as error:
                raise errors.FailedPrecondition(
                    f"{self.secrets} {trouble}, so the password of the database in {self.postgres} is lost, and "
                    f"resetting it failed: {' '.join(error.message.split())} Restore {self.secrets.name} from a "
                    "backup, or choose another POLYTOK_HOME."
                ) from error
        folders.write_private(self.secrets, json.dumps(made) + "\n")
        return made

    def _read(self) -> tuple[dict[str, str], str]:
        """Return the passwords in the file and, if the file cannot be used, the problem; else an empty string."""
        try:
            text = self.secrets.read_text(encoding="utf-8")
            found = json.loads(text) if text.strip() else None
        except FileNotFoundError:
            return {}, "is missing"
        except OSError as error:
            raise errors.FailedPrecondition(
                f"Cannot read {self.secrets}: {error.strerror}. Make it readable for the user who starts Polytok."
            ) from error
        except (ValueError, RecursionError):
            return {}, "is damaged: it is not valid JSON"
        if found is None:
            return {}, "is empty"
        if isinstance(found, dict) and all(isinstance(found.get(name), str) and found[name] for name in _PASSWORDS):
            return found, ""
        return {}, "is damaged: it does not contain all passwords"

    def publish(self, facts: dict[str, Any]) -> None:
        """Write stack.json, by which clients find the stack."""
        self._published = json.dumps(facts, indent=2) + "\n"
        folders.write_private(self.stack, self._published)

    def is_published(self) -> bool:
        """Return whether stack.json still holds what `publish` wrote."""
        try:
            return self.stack.read_text(encoding="utf-8") == self._published
        except (OSError, ValueError):
            return False

    def withdraw(self) -> None:
        """Remove stack.json, also one that a killed stack left."""
        self.stack.unlink(missing_ok=True)


def default() -> pathlib.Path:
    """Return POLYTOK_HOME, or the user data directory if it is not set."""
    named = os.environ.get("POLYTOK_HOME")
    return pathlib.Path(named).expanduser() if named else platformdirs.user_data_path("polytok")
