"""One stack for all trainings, and a tokenization in it that is READY."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

import polytok
from tests.client import material as documents
from tests.support import stacks
from tests.trainings import material
from tests.trainings import scene as scenes


@pytest.fixture(scope="package")
def training_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stacks.Stack]:
    """A stack with a corpus that is tokenized for a model."""
    folder = tmp_path_factory.mktemp("trainings")
    with (
        stacks.new_home() as home,
        stacks.started(home, environment={**os.environ, **scenes.SETTINGS}) as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("POLYTOK_HOME", str(home))
        with polytok.Client(stack.catalog_address) as client:
            client.datasets.create(scenes.DATASET, files=documents.write_jsonl(folder / "docs.jsonl", material.TEXTS))
            client.models.create(scenes.MODEL, str(material.write_model(folder / "model")))
            client.datasets.wait(scenes.DATASET, timeout=scenes.PATIENCE_SECONDS)
            client.models.wait(scenes.MODEL, timeout=scenes.PATIENCE_SECONDS)
            client.tokenizations.create(scenes.DATASET, scenes.MODEL)
            client.tokenizations.wait(scenes.DATASET, scenes.MODEL, timeout=scenes.PATIENCE_SECONDS)
        yield stack


@pytest.fixture
async def scene(training_stack: stacks.Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[scenes.Scene]:
    monkeypatch.setenv("POLYTOK_HOME", str(training_stack.home))
    async with polytok.AsyncClient(training_stack.catalog_address) as client:
        scene = scenes.Scene(training_stack, client)
        yield scene
        # The only worker is the next test's.
        await scene.end_all()
