"""Opening a published tokenization with `datasets`."""

from typing import TYPE_CHECKING

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2 as pb

if TYPE_CHECKING:
    import datasets


def load(tokenization: pb.Tokenization) -> "datasets.Dataset":
    """The rows of a tokenization, memory-mapped where its files are local."""
    try:
        import datasets  # noqa: PLC0415  heavy, and not every user of the client reads rows
    except ImportError as error:
        raise errors.FailedPrecondition(
            "Loading rows needs the package `datasets`; install it with `pip install 'polytok[data]'`."
        ) from error
    try:
        return datasets.load_from_disk(tokenization.tokenized_path)
    except FileNotFoundError as error:
        raise errors.NotFound(
            f"{tokenization.name} lies in {tokenization.tokenized_path}, which this machine cannot see. Run this where "
            "the stack's storage is mounted.",
            reason="STORAGE_FAILED",
        ) from error
