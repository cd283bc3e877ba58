"""Opening a finished extraction with `datasets`."""

from typing import TYPE_CHECKING

from polytok import errors
from polytok.client import watch_stream
from polytok.extractor.v1 import extractions_pb2 as pb

if TYPE_CHECKING:
    import datasets


def path(extraction: pb.Extraction) -> str:
    """Return the folder of a READY extraction. Raises FailedPrecondition for any other."""
    return watch_stream.ready(extraction).path


def load(extraction: pb.Extraction) -> "datasets.Dataset":
    """Return the rows of an extraction, memory-mapped where its files are local.

    Raises FailedPrecondition where it is not READY, NotFound where its files cannot be seen from here.
    """
    folder = path(extraction)
    try:
        import datasets  # noqa: PLC0415  heavy, and not every user of the client reads rows
    except ImportError as error:
        raise errors.FailedPrecondition(
            "Loading rows needs the package `datasets`; install it with `pip install 'polytok[data]'`."
        ) from error
    try:
        return datasets.load_from_disk(folder)
    except FileNotFoundError as error:
        raise errors.NotFound(
            f"{extraction.name} lies in {folder}, which this machine cannot see. Run this where the stack's storage is "
            "mounted.",
            reason="STORAGE_FAILED",
        ) from error
