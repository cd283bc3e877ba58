"""Clients of the session's stack, and one small dataset and model that are READY in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

import polytok
from tests.client import samples

if TYPE_CHECKING:
    import pathlib

    from tests.support.stacks import Stack


@pytest.fixture
def client(stack: Stack) -> Iterator[polytok.Client]:
    with polytok.Client(stack.catalog_address) as client:
        yield client


@pytest.fixture
async def async_client(stack: Stack) -> AsyncIterator[polytok.AsyncClient]:
    async with polytok.AsyncClient(stack.catalog_address) as client:
        yield client


@pytest.fixture
def documents(tmp_path: pathlib.Path) -> pathlib.Path:
    return samples.write_jsonl(tmp_path / "docs.jsonl")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return samples.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def ready(stack: Stack, model_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the ids of a dataset and a model that are READY; tests leave them be."""
    dataset, model = samples.unique("docs"), samples.unique("model")
    path = samples.write_jsonl(tmp_path_factory.mktemp("docs") / "docs.jsonl")
    with polytok.Client(stack.catalog_address) as client:
        client.datasets.create(dataset, files=path)
        client.models.create(model, str(model_folder))
        client.datasets.wait(dataset, timeout=120)
        client.models.wait(model, timeout=120)
    return dataset, model
