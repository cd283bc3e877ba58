"""One stack for one home, and none before the last one is gone.

The lock is an flock(2), and every process of the stack inherits it: it is free once the last of them has ended, even
when the supervisor was killed and its children are still on their way out.
"""

import fcntl
import os
import pathlib
import time
from collections.abc import Callable

from polytok import errors

_WAIT_SECONDS = 30.0

_RUNS = (
    "A Polytok stack already runs on {home} (process {pid}). Use that one, stop it with Ctrl-C or `kill {pid}`, or "
    "start this one on another folder with POLYTOK_HOME or --home."
)
_REMAINS = (
    "Processes of a Polytok stack that was killed still run on {home}. End them first: `fuser {lock}` lists them."
)


class AlreadyRunning(errors.FailedPrecondition):
    """Another stack runs on this home."""


def acquire(path: pathlib.Path, *, waiting: Callable[[], None]) -> int:
    """Take the lock and return its descriptor, for the children to inherit; it goes with this process.

    Waits, after telling so, for the remains of a stack whose supervisor is dead.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    told = False
    deadline = time.monotonic() + _WAIT_SECONDS
    while not _try(descriptor):
        holder = os.pread(descriptor, 64, 0).decode(errors="replace")
        alive = _is_alive(holder)
        if not (alive or told):
            waiting()
            told = True
        if alive or time.monotonic() > deadline:
            os.close(descriptor)
            pid = holder.partition(" ")[0]
            raise AlreadyRunning((_RUNS if alive else _REMAINS).format(home=path.parent, pid=pid, lock=path))
        time.sleep(0.05)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {_started(os.getpid())}".encode(), 0)
    return descriptor


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(holder: str) -> bool:
    """Return whether the supervisor that wrote `holder` lives: process ids are given again, start times are not."""
    pid, _, started = holder.partition(" ")
    # A file that was damaged names nobody.
    return pid.isascii() and pid.isdigit() and _started(int(pid)) == started


def _started(pid: int) -> str:
    """When that process started, in ticks since boot; empty if there is none. See proc_pid_stat(5), field 22."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return status.rpartition(")")[2].split()[19]
