"""Errors of sources, worded for the owner of the dataset.

Invalid content stays invalid and fails immediately; a failed disk or network may recover, and is retried.
"""

import errno
import re

from polytok import errors, object_store_errors

_REFUSED = frozenset({errno.EACCES, errno.EPERM})


def redact_uri(uri: str) -> str:
    """Return a URI as messages show it: without password and query, which may contain a signature."""
    if "://" not in uri:
        return uri
    return re.sub(r"://[^/@]*@", "://", uri).split("?", 1)[0]


def invalid(message: str) -> errors.InvalidArgument:
    """Return the error for a source that exists but cannot be read in its format."""
    return errors.InvalidArgument(message, reason="SOURCE_INVALID")


def empty(message: str) -> errors.InvalidArgument:
    """Return the error for a source without rows."""
    return errors.InvalidArgument(message, reason="SOURCE_EMPTY")


def not_found(uri: str) -> errors.NotFound:
    """Return the error for a path or URI at which nothing exists."""
    return errors.NotFound(
        f"{redact_uri(uri)} does not exist on the worker's machine. Check the path.",
        reason="SOURCE_NOT_FOUND",
    )


def from_io_error(uri: str, error: Exception) -> errors.PolytokError:
    """Return the error for a file system that could not open, list or read something."""
    found = error if isinstance(error, errors.PolytokError) else _of_store(uri, error)
    if found:
        return found
    name = redact_uri(uri)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return not_found(str(getattr(error, "filename", None) or uri))
    if isinstance(error, PermissionError) or number in _REFUSED:
        return errors.PermissionDenied(
            f"{name} is not readable for the worker's user. Grant read permission.", reason="SOURCE_NOT_FOUND"
        )
    if number == errno.ENAMETOOLONG:
        return errors.NotFound(f"{name[:200]}… is too long for a file name. Check the path.", reason="SOURCE_NOT_FOUND")
    if isinstance(error, ImportError):
        return errors.FailedPrecondition(
            f"{name} needs a Python package that the worker lacks ({error}). Install it, or copy the files locally.",
            reason="SOURCE_NOT_FOUND",
        )
    cause = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return errors.Unavailable(f"{name} could not be read: {cause}.", reason="STORAGE_FAILED")


def _of_store(uri: str, error: Exception) -> errors.PolytokError | None:
    return None if isinstance(error, ImportError) else object_store_errors.translate(error, uri, "SOURCE_NOT_FOUND")
