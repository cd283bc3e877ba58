"""Fixtures of the tokenizer's tests."""

import pathlib

import pytest

from services.tokenizer.models import loader
from tests.tokenizer import samples

MAKERS = {"byte_level": samples.byte_level, "sentencepiece": samples.sentencepiece, "wordpiece": samples.wordpiece}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The largest of the real vocabularies takes seconds in each test; the two others stand for it in short runs."""
    for item in items:
        if item.path.parent == pathlib.Path(__file__).parent and "[phi4" in item.name:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Return a folder for each kind of tokenizer."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture(params=sorted(MAKERS))
def folder(request: pytest.FixtureRequest, folders: dict[str, pathlib.Path]) -> pathlib.Path:
    """Return each of the folders in turn."""
    return folders[request.param]


@pytest.fixture
def tokenizer(folder: pathlib.Path) -> loader.Tokenizer:
    """Return each of the tokenizers in turn."""
    return loader.load(folder)
