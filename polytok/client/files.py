"""Opening the files of finished records: rows of tokenizations and extractions, folders of autoencoders."""

import contextlib
import os
import pathlib
from typing import TYPE_CHECKING

from polytok import errors, object_store_errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.client import downloads, watch_stream
from polytok.extractor.v1 import extractions_pb2

if TYPE_CHECKING:
    import datasets


def load_tokenization(tokenization: tokenizations_pb2.Tokenization) -> "datasets.Dataset":
    """Return the rows of a tokenization, memory-mapped.

    Files in an object store are copied once to the user's cache folder, and each is compared with its checksum.
    Raises NotFound if this machine does not see the files.
    """
    path = tokenization.tokenized_path
    if is_remote(path):
        return _load(tokenization.name, str(local_copy(downloads.tokenization(tokenization), "tokenizations")))
    return _load(tokenization.name, path)


def load_extraction(extraction: extractions_pb2.Extraction) -> "datasets.Dataset":
    """Return the rows of an extraction, memory-mapped if its files are local.

    Raises FailedPrecondition if it is not READY, NotFound if this machine does not see its files.
    """
    return _load(extraction.name, extraction_path(extraction))


def extraction_path(extraction: extractions_pb2.Extraction) -> str:
    """Return the folder of a READY extraction. Raises FailedPrecondition for any other."""
    return watch_stream.ready(extraction).path


def _load(name: str, path: str) -> "datasets.Dataset":
    try:
        import datasets  # noqa: PLC0415  slow to import, and not every client reads rows
    except ImportError as error:
        raise errors.FailedPrecondition(
            "Loading rows needs the package `datasets`. Install it with `pip install 'polytok[data]'`."
        ) from error
    try:
        return datasets.load_from_disk(path)
    except FileNotFoundError as error:
        raise errors.NotFound(
            f"The files of {name} are in {path}, which does not exist on this machine. Run this where the stack's "
            "storage is mounted.",
            reason="STORAGE_FAILED",
        ) from error


def is_remote(path: str) -> bool:
    """Return whether a path of a record is the URI of an object store."""
    return "://" in path and not path.startswith("file://")


def local_copy(published: downloads.Published, kind: str) -> pathlib.Path:
    """Return the folder of the copy in the user's cache, downloading it first if needed.

    Raises what `downloads.fetch` raises, and the store's errors as FailedPrecondition, PermissionDenied or Unavailable.
    """
    try:
        return downloads.fetch(published, cache_folder() / kind)
    except Exception as error:
        found = object_store_errors.translate(error, published.path)
        if found is None:
            raise
        raise found from error


def cache_folder() -> pathlib.Path:
    """Return the folder for copies of remote files: `POLYTOK_CACHE`, or else the user's cache folder."""
    import platformdirs  # noqa: PLC0415  only needed for remote files

    named = os.environ.get("POLYTOK_CACHE")
    folder = pathlib.Path(named) if named else platformdirs.user_cache_path("polytok")
    with contextlib.suppress(RuntimeError):
        folder = folder.expanduser()
    return folder
