"""Fixtures of the ingest tests."""

import pathlib

import pytest

from services.runtime.storage import Storage
from tests.ingest.ingests import Ingest


@pytest.fixture
def ingest(storage: Storage) -> Ingest:
    return Ingest(storage)


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder
