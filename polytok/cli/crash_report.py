"""What nobody foresaw, as one line: an exception of Python's own, a full disk, a reader that went away."""

import contextlib
import os
import sys
import traceback
from typing import TextIO

from polytok import disk_space, errors

TRACEBACK_VARIABLE = "POLYTOK_TRACEBACK"


def to_internal_error(error: Exception) -> errors.PolytokError:
    """Return the error to report. With POLYTOK_TRACEBACK set, where it came from is printed on stderr before it."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, OSError) and disk_space.is_full(error):
        silence(sys.stdout)
        where = f" ({error.filename})" if error.filename else ""
        message = f"Cannot write{where}: {error.strerror}. Make room and run the command again."
        return errors.ResourceExhausted(message, reason=disk_space.REASON)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return errors.Internal(
        f"This was not foreseen: {what}. {TRACEBACK_VARIABLE}=1 before the command shows where it came from.",
        retryable=False,
    )


def silence(stream: TextIO) -> None:
    """Leave a stream that cannot be written: what it still holds goes nowhere, and nobody is told so at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
