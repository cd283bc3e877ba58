"""Errors of full disks: where, how much is free, and what to do."""

import errno
import pathlib
import shutil

from polytok import errors

REASON = "DISK_FULL"
_FULL = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "The disk quota is used up",
    errno.EFBIG: "The limit on the size of a file is reached",
}
_SCARCE = 16 << 20
"""With fewer bytes free, a failure is most likely caused by the full disk."""
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def is_full_number(number: int | None) -> bool:
    """Return whether an error number means a full disk."""
    return number in _FULL


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, means a full disk."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def full(
    doing: str, place: pathlib.Path | str | None = None, *, error: OSError | None = None, then: str = ""
) -> errors.ResourceExhausted:
    """Return the error for a disk that filled up while `doing` something in `place`.

    `then` is what to do, or what happens, once there is free space.
    """
    what = _FULL[errno.ENOSPC]
    if error is not None and error.errno in _FULL:
        what = f"{_FULL[error.errno]} ({error.strerror})"
    then = then or "waiting work continues by itself"
    return errors.ResourceExhausted(
        f"{what} while {doing}{free(place)}. Free some space; {then}.", reason=REASON, retryable=True
    )


def scarce(place: pathlib.Path | str) -> str:
    """Return a warning if the disk of `place` is nearly full, else an empty text."""
    folder = _folder(place)
    try:
        left = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f"the disk of {folder} is full: {readable(left)} free; free some space" if left < _SCARCE else ""


def free(place: pathlib.Path | str | None) -> str:
    """Return the free space at `place`, as ` (…: 12 MiB free)`; empty if it is unknown."""
    if place is None:
        return ""
    folder = _folder(place)
    try:
        return f" ({folder}: {readable(shutil.disk_usage(folder).free)} free)"
    except OSError:
        return ""


def _folder(place: pathlib.Path | str) -> pathlib.Path:
    """Return the nearest existing folder that contains `place`."""
    folder = pathlib.Path(place)
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def readable(size: float) -> str:
    """Return a number of bytes in a readable unit."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError(size)
