"""Processes as the kernel shows them."""

import os
import pathlib


def is_alive(pid: int) -> bool:
    """Return whether that process is there and has not ended; one that nobody has waited for yet has ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def using(folder: pathlib.Path) -> list[str]:
    """Return the command lines of the processes that name `folder`, in their arguments or their environment."""
    found = []
    for process in pathlib.Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid() or not is_alive(int(process.name)):
            continue
        try:
            command = (process / "cmdline").read_bytes()
            reported = command + (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in reported:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def as_user(uid: int) -> list[str]:
    """Return the prefix of a command line that root runs as another user, who may read everything.

    The interpreter of a developer often lies under a folder such as /root: only being able to read it makes such a
    user no less ordinary.
    """
    identity = ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
    return ["setpriv", *identity, "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
