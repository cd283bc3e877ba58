"""Report unexpected errors in one line: exceptions of Python, a full disk, a closed pipe."""

import contextlib
import os
import sys
import traceback
from typing import TextIO

from polytok import disk_space, errors

TRACEBACK_VARIABLE = "POLYTOK_TRACEBACK"


def to_internal_error(error: Exception) -> errors.PolytokError:
    """Return the error to report. With POLYTOK_TRACEBACK set, print its traceback on stderr first."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, OSError) and disk_space.is_full(error):
        silence(sys.stdout)
        where = f" ({error.filename})" if error.filename else ""
        message = f"Cannot write{where}: {error.strerror}. Free some space and run the command again."
        return errors.ResourceExhausted(message, reason=disk_space.REASON)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return errors.Internal(
        f"Unexpected error: {what}. Set {TRACEBACK_VARIABLE}=1 to see the traceback.", retryable=False
    )


def silence(stream: TextIO) -> None:
    """Redirect a stream that cannot be written to the null device, so that flushing it at exit raises no error."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
