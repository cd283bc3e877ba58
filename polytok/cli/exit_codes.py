"""Exit codes, for scripts."""

from polytok import errors

OK = 0
FAILED = 1
"""A job failed or was cancelled, or an unexpected error occurred."""
USAGE = 2
"""The command line, or a value in it, is invalid."""
ANOTHER_RUNS = 3
"""`polytok up`: another stack runs on the same directory."""
NOT_FOUND = 4
CONFLICT = 5
"""The resource exists with other parameters, is held, is not READY, is in the wrong state, or was changed."""
UNAVAILABLE = 6
"""No stack runs, or it does not respond in time."""
PAUSED = 7
"""The followed training was paused on request; it is neither done nor failed."""
INTERRUPTED = 130
"""Ctrl-C, as shells count it: 128 + SIGINT."""

EPILOG = (
    "Exit codes: 0 success · 1 a job failed, or an unexpected error · 2 invalid usage or value · 3 another stack runs "
    "on this directory · 4 not found · 5 conflict: exists, held, not READY or changed · 6 no stack responds · 7 the "
    "training was paused · 130 interrupted."
)

_CODES: dict[type[errors.PolytokError], int] = {
    errors.InvalidArgument: USAGE,
    errors.NotFound: NOT_FOUND,
    errors.AlreadyExists: CONFLICT,
    errors.FailedPrecondition: CONFLICT,
    errors.Aborted: CONFLICT,
    errors.DeadlineExceeded: UNAVAILABLE,
    errors.Unavailable: UNAVAILABLE,
}


def code(error: errors.PolytokError) -> int:
    """Return the exit code for an error."""
    return _CODES.get(type(error), FAILED)
