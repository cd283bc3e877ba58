"""Checks that bad input is refused, and that no file is left behind."""

import pathlib

import pytest

from polytok import errors
from polytok.catalog.v1.datasets_pb2 import FileSource
from tests.ingest.harness import IngestHarness
from tests.support.messages import check_names

SHARD_BYTES = 100_000
"""Small, so that shards are finished before what is bad is met."""


def refused(
    ingest: IngestHarness,
    *uris: pathlib.Path | str,
    reason: str = "SOURCE_INVALID",
    format: FileSource.Format.ValueType = FileSource.FORMAT_UNSPECIFIED,  # noqa: A002
) -> errors.PolytokError:
    """Read a source that is refused for good, and return the error."""
    with pytest.raises(errors.PolytokError) as caught:
        ingest.files(*uris, format=format, shard_bytes=SHARD_BYTES)
    assert (caught.value.reason, caught.value.retryable) == (reason, False), caught.value
    return caught.value


def check_refused(
    ingest: IngestHarness,
    source: pathlib.Path,
    name: str,
    content: bytes,
    *names: object,
    reason: str = "SOURCE_INVALID",
) -> None:
    """Check that a file is refused with a message that names it and these values, and that nothing is stored."""
    (source / name).write_bytes(content)
    error = refused(ingest, source / name, reason=reason)
    check_names(error.message, source / name, *names)
    assert ingest.stored() == []
