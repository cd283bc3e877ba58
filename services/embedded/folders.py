"""Folders of the embedded servers: who owns them, and files in them that nobody else reads."""

import contextlib
import os
import pathlib

from polytok import disk_space, errors
from services.embedded import exec_wrapper


def check_owner(folder: pathlib.Path) -> int:
    """Return whose folder it is; refuse one of another user, unless root asks."""
    owner = folder.stat().st_uid
    if os.geteuid() not in (0, owner):
        raise errors.FailedPrecondition(
            f"{folder} belongs to user {owner}, not to you (user {os.geteuid()}). Start Polytok as the user who "
            "made it, or choose another folder with POLYTOK_HOME or --home.",
        )
    return owner


def make_private(folder: pathlib.Path) -> pathlib.Path:
    """Create `folder`, readable by its owner alone, and return it.

    When root runs us its owner is the unprivileged user that the servers run as. A folder of another user keeps its
    owner: `guard` runs the server as that user, so a home made by an ordinary user works for root too.
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
    except OSError as error:  # a user namespace that knows root alone, or a file system without owners
        raise errors.FailedPrecondition(
            f"Postgres does not run as root, and this system does not let root give {folder} to another user "
            f"({error.strerror}). Start Polytok as an ordinary user, or choose another POLYTOK_HOME."
        ) from error
    folder.chmod(0o700)


def hand_over(path: pathlib.Path) -> None:
    """Return what root made to the owner of the folder it is in: root may run the stack on a user's home."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)


def write_private(path: pathlib.Path, text: str) -> None:
    """Write a file that only the owner of its folder can read: all of it or nothing, whatever fails meanwhile."""
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
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError, doing: str, place: pathlib.Path | None = None) -> str:
    """Return one line about an error of the system: what could not be done, where, why, and what to do.

    `place` is where it happened, if the error does not say.
    """
    named = str(error.filename or place or "")
    if disk_space.is_full(error):
        return disk_space.full(
            doing, named or None, error=error, then="then it goes on by itself, or start it again"
        ).message
    named = f" ({named})" if named else ""
    return f"{error.strerror or error}{named} while {doing}."
