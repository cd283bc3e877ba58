"""Paths of sources that exist on the catalog's machine, checked before there is a record."""

import difflib
import itertools
import os
import pathlib
from collections.abc import Iterable

from polytok import errors
from services.runtime.source_allowlist import SourceAllowlist

_LISTED = 10_000
"""Maximum number of names that are compared with a mistyped one."""
_GLOB = frozenset("*?[")


def check(paths: Iterable[tuple[str, str]]) -> None:
    """Raise NotFound for the first path that does not exist; `paths` are fields and their values. Blocks.

    URIs, globs and hub repositories are left to the workers. Raise PermissionDenied for paths outside the allowlist.
    """
    roots = SourceAllowlist()
    for field, path in paths:
        if not path.startswith("/") or "::" in path or not _GLOB.isdisjoint(path):
            continue
        roots.check(path)
        try:
            os.stat(path)  # noqa: PTH116  a path of any kind
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _not_found(field, pathlib.PurePosixPath(path)) from error
        except (OSError, ValueError):
            # The worker reports it.
            continue


def _not_found(field: str, path: pathlib.PurePosixPath) -> errors.NotFound:
    for folder in path.parents:
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in itertools.islice(entries, _LISTED)]
        except OSError:
            continue
        missing = path.relative_to(folder).parts[0]
        close = [str(folder / name) for name in difflib.get_close_matches(missing, names, n=3, cutoff=0.6)]
        break
    else:
        close = []
    advice = f"Did you mean {' or '.join(close)}?" if close else "Check the path."
    problem = f"{path} does not exist. {advice}"
    return errors.NotFound(problem, reason="SOURCE_NOT_FOUND", violations=[errors.FieldViolation(field, problem)])
