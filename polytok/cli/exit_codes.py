"""Exit codes, for scripts."""

from polytok import errors

OK = 0
FAILED = 1
"""A job failed or was cancelled, or something unforeseen went wrong."""
USAGE = 2
"""The command line, or a value in it, is wrong."""
ANOTHER_RUNS = 3
"""`polytok up`: another stack runs on the same folder."""
NOT_FOUND = 4
CONFLICT = 5
"""It exists and differs, is held, not READY, in another state, or was changed by somebody else."""
UNAVAILABLE = 6
"""No stack runs, or it does not answer in time."""
PAUSED = 7
"""A training that was followed was paused because somebody asked for it; it is neither done nor failed."""
INTERRUPTED = 130
"""Ctrl-C, as shells count it: 128 + SIGINT."""

EPILOG = (
    "Exit codes: 0 done · 1 a job failed, or an unforeseen error · 2 wrong usage or value · 3 another stack runs on "
    "this folder · 4 not found · 5 conflict: exists, held, not READY or changed · 6 no stack "
    "answers · 7 the training was paused · 130 interrupted."
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
