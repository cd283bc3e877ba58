"""Fixtures of the ingest tests."""

import pathlib

import pytest

from services.runtime.storage import Storage
from tests.ingest.harness import IngestHarness


@pytest.fixture
def ingest(storage: Storage) -> IngestHarness:
    return IngestHarness(storage)


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder
