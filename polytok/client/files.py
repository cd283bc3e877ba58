"""Opening the files of finished records: rows of tokenizations and extractions, folders of autoencoders."""

import contextlib
import dataclasses
import difflib
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from polytok import errors, object_store_errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.client import downloads, watch_stream
from polytok.extractor.v1 import extractions_pb2

if TYPE_CHECKING:
    import datasets


@dataclasses.dataclass(frozen=True)
class View:
    """How rows are seen."""

    columns: Sequence[str] | None = None
    """The columns; None means all."""
    format: str | None = None
    """The type of values, as in `datasets.Dataset.with_format`: torch, numpy, arrow, …; None means Python objects."""


WHOLE = View()
"""All columns, as Python objects."""


def load_tokenization(tokenization: tokenizations_pb2.Tokenization, view: View = WHOLE) -> "datasets.Dataset":
    """Return the rows of a tokenization, memory-mapped.

    Files in an object store are copied once to the user's cache folder, and each is compared with its checksum.
    Raises NotFound if this machine does not see the files, InvalidArgument for an unknown column or format.
    """
    path = tokenization.tokenized_path
    if is_remote(path):
        path = str(local_copy(downloads.tokenization(tokenization), "tokenizations"))
    return _viewed(tokenization.name, _load(tokenization.name, path), view)


def load_extraction(extraction: extractions_pb2.Extraction, view: View = WHOLE) -> "datasets.Dataset":
    """Return the rows of an extraction, memory-mapped if its files are local.

    Raises FailedPrecondition if it is not READY, NotFound if this machine does not see its files, InvalidArgument for
    an unknown column or format.
    """
    return _viewed(extraction.name, _load(extraction.name, extraction_path(extraction)), view)


def extraction_path(extraction: extractions_pb2.Extraction) -> str:
    """Return the folder of a READY extraction. Raises FailedPrecondition for any other."""
    return watch_stream.ready(extraction).path


def _viewed(name: str, rows: "datasets.Dataset", view: View) -> "datasets.Dataset":
    if view.columns is not None:
        columns = [view.columns] if isinstance(view.columns, str) else list(view.columns)
        for column in columns:
            if column not in rows.column_names:
                close = difflib.get_close_matches(str(column), rows.column_names, n=1)
                meant = f" Did you mean {close[0]!r}?" if close else ""
                raise errors.InvalidArgument(
                    f"{name} has no column {column!r}; it has: {', '.join(rows.column_names)}.{meant}",
                    reason="COLUMN_NOT_FOUND",
                    violations=[errors.FieldViolation("columns", f"{column!r} does not exist.{meant}")],
                )
        rows = rows.select_columns(columns)
    if view.format is None:
        return rows
    try:
        return rows.with_format(view.format)
    except ValueError as error:
        raise errors.InvalidArgument(
            f"format {view.format!r} cannot be used: {error}", violations=[errors.FieldViolation("format", str(error))]
        ) from error


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
