"""One stack for all trainings, and a tokenization in it that is READY."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

import polytok
from tests.client import samples as documents
from tests.support import stacks
from tests.trainings import samples, training_harness


@pytest.fixture(scope="package")
def training_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stacks.Stack]:
    """Yield a stack with a corpus that is tokenized for a model."""
    folder = tmp_path_factory.mktemp("trainings")
    with (
        stacks.new_home() as home,
        stacks.started(home, environment={**os.environ, **training_harness.SETTINGS}) as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("POLYTOK_HOME", str(home))
        with polytok.Client(stack.catalog_address) as client:
            client.datasets.create(
                training_harness.DATASET, files=documents.write_jsonl(folder / "docs.jsonl", samples.TEXTS)
            )
            client.models.create(training_harness.MODEL, str(samples.write_model(folder / "model")))
            client.datasets.wait(training_harness.DATASET, timeout=training_harness.PATIENCE_SECONDS)
            client.models.wait(training_harness.MODEL, timeout=training_harness.PATIENCE_SECONDS)
            client.tokenizations.create(training_harness.DATASET, training_harness.MODEL)
            client.tokenizations.wait(
                training_harness.DATASET, training_harness.MODEL, timeout=training_harness.PATIENCE_SECONDS
            )
        yield stack


@pytest.fixture
async def harness(
    training_stack: stacks.Stack, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[training_harness.TrainingHarness]:
    monkeypatch.setenv("POLYTOK_HOME", str(training_stack.home))
    async with polytok.AsyncClient(training_stack.catalog_address) as client:
        harness = training_harness.TrainingHarness(training_stack, client)
        yield harness
        # The only worker is the next test's.
        await harness.end_all()
