"""A full disk, told in the same words wherever it is met: where, how much is free, and what to do."""

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
"""With fewer bytes free, what fails most likely fails for want of them."""
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def is_full_number(number: int | None) -> bool:
    """Return whether an error number is the system's for a disk without room."""
    return number in _FULL


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, is the system's for a disk without room."""
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

    `then` says what to do with room made.
    """
    what = _FULL[errno.ENOSPC]
    if error is not None and error.errno in _FULL:
        what = f"{_FULL[error.errno]} ({error.strerror})"
    then = then or "what waits goes on by itself"
    return errors.ResourceExhausted(
        f"{what} while {doing}{free(place)}. Make room; {then}.", reason=REASON, retryable=True
    )


def scarce(place: pathlib.Path | str) -> str:
    """Say that hardly anything is free where `place` is, or nothing."""
    folder = _folder(place)
    try:
        left = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f"the disk of {folder} is full: {readable(left)} free; make room" if left < _SCARCE else ""


def free(place: pathlib.Path | str | None) -> str:
    """Return how much is free where `place` is or would be, as ` (…: 12 MiB free)`; empty where that is not known."""
    if place is None:
        return ""
    folder = _folder(place)
    try:
        return f" ({folder}: {readable(shutil.disk_usage(folder).free)} free)"
    except OSError:
        return ""


def _folder(place: pathlib.Path | str) -> pathlib.Path:
    """Return the folder that is there and holds `place`, or would."""
    folder = pathlib.Path(place)
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def readable(size: float) -> str:
    """Return a number of bytes for people."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError(size)
