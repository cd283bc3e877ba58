"""Lock a home, so that one stack at a time runs on it.

The lock is an flock(2) that every process of the stack inherits. It becomes free when the last of them has ended, even
if the supervisor was killed while its children were still shutting down.
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
    "Processes of a killed Polytok stack still run on {home}. `fuser {lock}` lists them; stop them and try again."
)


class AlreadyRunning(errors.FailedPrecondition):
    """Raised when another stack runs on this home."""


def acquire(path: pathlib.Path, *, waiting: Callable[[], None]) -> int:
    """Take the lock and return its descriptor, which children inherit. It is released when this process ends.

    If the supervisor is dead and its processes are still ending, call `waiting` and wait for them.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    reported = False
    deadline = time.monotonic() + _WAIT_SECONDS
    while not _try(descriptor):
        holder = os.pread(descriptor, 64, 0).decode(errors="replace")
        alive = _is_alive(holder)
        if not (alive or reported):
            waiting()
            reported = True
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
    """Return whether the supervisor that wrote `holder` is alive: process ids are reused, start times are not."""
    pid, _, started = holder.partition(" ")
    # a damaged file names no process
    return pid.isascii() and pid.isdigit() and _started(int(pid)) == started


def _started(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty if there is none. See proc_pid_stat(5), field 22."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return status.rpartition(")")[2].split()[19]
