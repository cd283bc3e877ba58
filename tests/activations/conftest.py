"""Fixtures of the tests of activations."""

from collections.abc import Callable

import pytest

from services.activations.models import LoadedModel
from tests.activations import tiny_models

Loader = Callable[[str], LoadedModel]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Return a tiny model of a family; the same one each time."""
    kept: dict[str, LoadedModel] = {}

    def load(kind: str) -> LoadedModel:
        if kind not in kept:
            kept[kind] = tiny_models.load(kind, tmp_path_factory.mktemp("models"))
        return kept[kind]

    return load


@pytest.fixture(scope="session")
def gpt2(loaded: Loader) -> LoadedModel:
    """Return a tiny GPT-2."""
    return loaded("gpt2")
