"""Rules for storage keys, and the messages of storage errors."""

import contextlib
import errno
import pathlib
import unicodedata
from collections.abc import Generator

from polytok import disk_space, errors, object_store_errors

_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_LOOKING = frozenset({"opening", "reading", "looking up", "listing"})
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors of reading where there is no file: nothing, a folder, or a file in place of a folder."""


def outside_root(key: str) -> errors.InvalidArgument:
    """Return the error for a key outside the root."""
    shown = key if len(key) <= 200 else f"{key[:200]}…"
    return errors.InvalidArgument(
        f"{shown!r} leaves the storage root. Use a relative path without '..', such as 'folder/file'.",
        reason="PATH_OUTSIDE_ROOT",
    )


def outside_link(key: str, link: str) -> errors.DataLoss:
    """Return the error for a file behind a symbolic link that leaves the root."""
    return errors.DataLoss(
        f"{key!r} leaves the storage root: {link!r} is a symbolic link to another place and is not followed. "
        "Replace the link by the files themselves.",
        reason="PATH_OUTSIDE_ROOT",
        metadata={"file": key},
    )


def check(key: str) -> None:
    """Reject a key that is not a plain relative path."""
    if any(part in {"", ".", ".."} for part in key.split("/")) or "\\" in key:
        raise outside_root(key)
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in key):
        raise outside_root(key)
    # fsspec expands patterns, even in deletions.
    if any(character in "*?[]" for character in key):
        raise errors.InvalidArgument(
            f"{key!r} looks like a pattern; a storage key cannot contain '*', '?', '[' or ']'."
        )


@contextlib.contextmanager
def translated(action: str, key: str, uri: str = "", place: pathlib.Path | None = None) -> Generator[None]:
    """Convert the errors of the file system in the folder `place`, or of the store at `uri`."""
    try:
        yield
    except errors.PolytokError:
        raise
    except Exception as error:
        # Libraries of object stores raise errors of their own, which are not OSError.
        found = object_store_errors.translate(error, uri) if uri else None
        if found is not None:
            raise found from error
        absent = _ABSENT if action in _LOOKING else FileNotFoundError
        if isinstance(error, absent):
            raise errors.NotFound(f"The file {key!r} does not exist in the storage.", metadata={"key": key}) from error
        if isinstance(error, OSError):
            raise _failure(action, key, error, place) from error
        raise


def _failure(action: str, key: str, error: OSError, place: pathlib.Path | None) -> errors.PolytokError:
    cause = error.strerror or str(error) or type(error).__name__
    metadata = {"key": key}
    if disk_space.is_full(error):
        found = disk_space.full(f"{action} {key!r}", place, error=error)
        found.metadata.update(metadata)
        return found
    if error.errno == errno.ENAMETOOLONG:
        return errors.InvalidArgument(f"{key[:200]!r}… is too long for a file name. Shorten it.")
    if error.errno in _REFUSED:
        message = f"{cause} while {action} {key!r}. Allow the service's user to write to the storage root."
        return errors.Unavailable(message, reason="STORAGE_FAILED", metadata=metadata, retryable=False)
    return errors.Unavailable(f"{cause} while {action} {key!r}.", reason="STORAGE_FAILED", metadata=metadata)
