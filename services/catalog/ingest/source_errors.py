"""What goes wrong with a source, in words for its owner.

Content that is wrong stays wrong, and fails at once; a disk or a network that failed may work again, and is retried.
"""

import errno
import re

from polytok import errors, object_store_errors

_REFUSED = frozenset({errno.EACCES, errno.EPERM})


def redact_uri(uri: str) -> str:
    """Return a URI as messages show it: without password and without query, which may be a signature."""
    if "://" not in uri:
        return uri
    return re.sub(r"://[^/@]*@", "://", uri).split("?", 1)[0]


def invalid(message: str) -> errors.InvalidArgument:
    """Return the source is there, and cannot be read as what it says it is."""
    return errors.InvalidArgument(message, reason="SOURCE_INVALID")


def empty(message: str) -> errors.InvalidArgument:
    """Return the source has no rows."""
    return errors.InvalidArgument(message, reason="SOURCE_EMPTY")


def not_found(uri: str) -> errors.NotFound:
    """There is nothing at this path or URI."""
    return errors.NotFound(
        f"{redact_uri(uri)} does not exist, or not on the machine of the worker. Check the path.",
        reason="SOURCE_NOT_FOUND",
    )


def from_io_error(uri: str, error: Exception) -> errors.PolytokError:
    """Why a file system could not open, list or read something."""
    found = error if isinstance(error, errors.PolytokError) else _of_store(uri, error)
    if found:
        return found
    name = redact_uri(uri)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return not_found(str(getattr(error, "filename", None) or uri))
    if isinstance(error, PermissionError) or number in _REFUSED:
        return errors.PermissionDenied(
            f"{name} may not be read by the worker's user. Give it the right to read.", reason="SOURCE_NOT_FOUND"
        )
    if number == errno.ENAMETOOLONG:
        return errors.NotFound(
            f"{name[:200]}… is longer than a file name can be. Check the path.", reason="SOURCE_NOT_FOUND"
        )
    if isinstance(error, ImportError):
        return errors.FailedPrecondition(
            f"{name} needs a package that the worker lacks ({error}). Install it, or copy the files to a local folder.",
            reason="SOURCE_NOT_FOUND",
        )
    cause = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return errors.Unavailable(f"{name} could not be read: {cause}.", reason="STORAGE_FAILED")


def _of_store(uri: str, error: Exception) -> errors.PolytokError | None:
    return None if isinstance(error, ImportError) else object_store_errors.translate(error, uri, "SOURCE_NOT_FOUND")
