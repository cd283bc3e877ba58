"""Opening a published tokenization with `datasets`."""

import contextlib
import os
import pathlib
from typing import TYPE_CHECKING

from polytok import errors, object_store_errors
from polytok.catalog.v1 import tokenizations_pb2 as pb
from polytok.client import downloads

if TYPE_CHECKING:
    import datasets


def load(tokenization: pb.Tokenization) -> "datasets.Dataset":
    """Return the rows of a tokenization, memory-mapped.

    Files that lie in an object store are copied once to the user's cache folder, each checked against its checksum.
    """
    try:
        import datasets  # noqa: PLC0415  heavy, and not every user of the client reads rows
    except ImportError as error:
        raise errors.FailedPrecondition(
            "Loading rows needs the package `datasets`; install it with `pip install 'polytok[data]'`."
        ) from error
    path = tokenization.tokenized_path
    if is_remote(path):
        path = str(local_copy(downloads.tokenization(tokenization), "tokenizations"))
    try:
        return datasets.load_from_disk(path)
    except FileNotFoundError as error:
        raise errors.NotFound(
            f"{tokenization.name} lies in {tokenization.tokenized_path}, which this machine cannot see. Run this where "
            "the stack's storage is mounted.",
            reason="STORAGE_FAILED",
        ) from error


def is_remote(path: str) -> bool:
    """Return whether a path of a record is the URI of an object store."""
    return "://" in path and not path.startswith("file://")


def local_copy(published: downloads.Published, kind: str) -> pathlib.Path:
    """Return the folder of the copy in the user's cache, made unless it is there; raises what `fetching.fetch` raises.

    What the store says comes as FailedPrecondition, PermissionDenied or Unavailable, with what to do about it.
    """
    try:
        return downloads.fetch(published, cache_folder() / kind)
    except Exception as error:
        found = object_store_errors.translate(error, published.path)
        if found is None:
            raise
        raise found from error


def cache_folder() -> pathlib.Path:
    """Return where copies of remote files are kept: `POLYTOK_CACHE`, or else the user's cache folder."""
    import platformdirs  # noqa: PLC0415  only who reads remote files needs it

    named = os.environ.get("POLYTOK_CACHE")
    folder = pathlib.Path(named) if named else platformdirs.user_cache_path("polytok")
    with contextlib.suppress(RuntimeError):
        folder = folder.expanduser()
    return folder
