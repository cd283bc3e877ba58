"""Folders of the embedded servers: their owners, and files in them that only the owner can read."""

import contextlib
import os
import pathlib

from polytok import disk_space, errors
from services.embedded import exec_wrapper


def check_owner(folder: pathlib.Path) -> int:
    """Return the owner of a folder. Refuse a folder of another user, except to root."""
    owner = folder.stat().st_uid
    if os.geteuid() not in (0, owner):
        raise errors.FailedPrecondition(
            f"{folder} belongs to user {owner}, and you are user {os.geteuid()}. Start Polytok as the user who created "
            "it, or choose another folder with POLYTOK_HOME or --home.",
        )
    return owner


def make_private(folder: pathlib.Path) -> pathlib.Path:
    """Create `folder`, readable only by its owner, and return it.

    If root runs this, the owner is the unprivileged user that the servers run as. A folder of another user keeps its
    owner: `exec_wrapper` runs the server as that user, so a home of an ordinary user works for root too.
    """
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync(folder.parent)
    if check_owner(folder) == 0:
        _give_to_nobody(folder)
    return folder


def _give_to_nobody(folder: pathlib.Path) -> None:
    try:
        os.chown(folder, exec_wrapper.NOBODY, exec_wrapper.NOBODY)
    except OSError as error:  # a user namespace with root alone, or a file system without owners
        raise errors.FailedPrecondition(
            f"Postgres does not run as root, and this system does not let root change the owner of {folder} "
            f"({error.strerror}). Start Polytok as an ordinary user, or choose another POLYTOK_HOME."
        ) from error
    folder.chmod(0o700)


def hand_over(path: pathlib.Path) -> None:
    """Give a file that root created to the owner of its folder: root may run the stack on a user's home."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)


def write_private(path: pathlib.Path, text: str) -> None:
    """Write a file that only the owner of its folder can read. After a failure the old content is unchanged."""
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    try:
        staged.touch(mode=0o600, exist_ok=False)
        with staged.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        hand_over(staged)
        staged.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: pathlib.Path) -> None:
    """Flush a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError, doing: str, place: pathlib.Path | None = None) -> str:
    """Return one line about a system error: what failed, where, why, and what to do.

    `place` names the file or folder if the error does not.
    """
    named = str(error.filename or place or "")
    if disk_space.is_full(error):
        return disk_space.full(
            doing, named or None, error=error, then="then it continues by itself, or start it again"
        ).message
    named = f" ({named})" if named else ""
    return f"{error.strerror or error}{named} while {doing}."
