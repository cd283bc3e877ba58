"""Exec wrapper: makes a program die with its parent and, when started by root, run as an ordinary user.

Run it as a script: `python -I -S exec_wrapper.py SIGNAL PARENT OWNER -- PROGRAM ARGUMENT…`. SIGNAL is sent to the
program when its parent dies, PARENT is the parent's process id, and OWNER is a folder whose owner the program runs as
(`-`: do not change the user). It imports little, and only from the standard library, because it runs before every
start of a server. `command` builds the command line.

Postgres refuses to run as root. We neither create a user nor change permissions outside our own data directory. Where
that user cannot reach the program or its data (a checkout under /root, say), the program keeps the one capability that
allows it, as an ambient capability (capabilities(7)), and nothing else.
"""

import ctypes
import os
import signal
import struct
import sys
from collections.abc import Sequence

NOBODY = 65534
"""The numeric user and group that every Linux system has for programs that should own nothing."""

# linux/prctl.h and linux/capability.h
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2

# Least privilege first. DAC_READ_SEARCH is enough to traverse folders; container runtimes often grant only the other.
_ATTEMPTS: tuple[tuple[int, ...], ...] = ((), (_CAP_DAC_READ_SEARCH,), (_CAP_DAC_OVERRIDE,))

_UNREACHABLE = (
    "cannot run {program} as user {uid}: that user cannot reach it or {folder}, and this system does not let root "
    "grant that access. Put the virtual environment and POLYTOK_HOME where every user has access (not under /root), "
    "or start Polytok as an ordinary user."
)


def command(argv: Sequence[str], *, on_parent_death: signal.Signals, owner: str | None = None) -> list[str]:
    """Return the command line that runs `argv` under this wrapper, as a child of this process.

    The kernel ties the signal to the *thread* that starts the child, so start it from a thread that lives as long as
    the program should.
    """
    return [
        *(sys.executable, "-I", "-S", os.path.abspath(__file__)),  # noqa: PTH100 - pathlib costs start time
        *(str(int(on_parent_death)), str(os.getpid()), owner or "-", "--"),
        *argv,
    ]


def _prctl(*arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(*(ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:5])) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _capset(capabilities: Sequence[int]) -> None:
    """Make `capabilities` the effective, permitted and inheritable set of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    mask = sum(1 << capability for capability in capabilities)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", mask, mask, mask, 0, 0, 0)
    if libc.capset(header, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _assume(uid: int, gid: int, capabilities: Sequence[int]) -> None:
    """Switch to that user permanently, keeping only `capabilities`, also across exec."""
    if capabilities:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if capabilities:
        _capset(capabilities)
        for capability in capabilities:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _can_run(program: str, folder: str, uid: int, gid: int, capabilities: Sequence[int]) -> bool:
    """Return whether that user can reach `folder` and run `program`, by trying both in a child process."""
    pid = os.fork()
    if pid == 0:
        try:
            _assume(uid, gid, capabilities)
            os.listdir(folder)  # noqa: PTH208 - pathlib costs start time
            silent = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(silent, descriptor)
            os.execv(program, [program, "--version"])  # noqa: S606
        except OSError:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _drop(program: str, folder: str) -> None:
    """Switch to the owner of `folder`, with the least privilege that still reaches everything."""
    status = os.stat(folder)  # noqa: PTH116 - pathlib costs start time
    uid, gid = (status.st_uid, status.st_gid) if status.st_uid else (NOBODY, NOBODY)
    for capabilities in _ATTEMPTS:
        if _can_run(program, folder, uid, gid, capabilities):
            _assume(uid, gid, capabilities)
            return
    sys.exit(_UNREACHABLE.format(program=program, uid=uid, folder=folder))


def main(arguments: Sequence[str]) -> None:
    """Prepare this process and replace it by the program."""
    signal_number, parent, owner, _, *argv = arguments
    os.chdir("/")
    if owner != "-" and os.geteuid() == 0:
        _drop(argv[0], owner)
    # After the change of user, which clears it. The parent may have died before this call, so check again.
    _prctl(_PR_SET_PDEATHSIG, int(signal_number))
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)
    os.execv(argv[0], argv)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
