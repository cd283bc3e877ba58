"""One stack to break for all of these tests, and what a run without faults gives in it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

import polytok
from tests.client import samples
from tests.faults import stack_harness
from tests.support import stacks

if TYPE_CHECKING:
    import pathlib

DATASET, MODEL, CALM = "corpus", "model", "calm"
_WORDS = ("sea", "wind", "ship", "sail", "harbour", "tide", "lantern", "captain", "rope", "anchor", "gull", "storm")


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return where the dataset's file and the model's tokenizer are."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="package")
def breakable(folder: pathlib.Path) -> Iterator[stacks.Stack]:
    """Yield a stack with two tokenizer workers and a dataset of many shards."""
    # A fast engine is taken for little text too.
    engines = {"POLYTOK_TOKENIZER_PATIENCE_BYTES": "0", "POLYTOK_TOKENIZER_PROOFS": str(folder / "proofs")}
    environment = {**os.environ, **stack_harness.SETTINGS, **engines}
    with (
        stacks.new_home() as home,
        stacks.started(home, workers=len(stack_harness.WORKERS), environment=environment) as stack,
        polytok.Client(stack.catalog_address) as client,
    ):
        client.datasets.create(DATASET, files=write_corpus(folder / "docs.jsonl"))
        client.models.create(MODEL, str(samples.write_model(folder / "model")))
        assert client.datasets.wait(DATASET, timeout=stack_harness.PATIENCE_SECONDS).num_shards > 12
        client.models.wait(MODEL, timeout=stack_harness.PATIENCE_SECONDS)
        client.tokenizations.create(DATASET, MODEL, variant=CALM, max_length=32)
        client.tokenizations.wait(DATASET, MODEL, variant=CALM, timeout=stack_harness.PATIENCE_SECONDS)
        yield stack


@pytest.fixture
async def harness(breakable: stacks.Stack, folder: pathlib.Path) -> AsyncIterator[stack_harness.StackHarness]:
    async with polytok.AsyncClient(breakable.catalog_address) as client:
        harness = stack_harness.StackHarness(breakable, client, DATASET, MODEL, folder)
        await harness.at_rest()
        yield harness


@pytest.fixture
async def calm(harness: stack_harness.StackHarness) -> list[list[int]]:
    """Return the rows of a run without faults."""
    return harness.ids(await harness.client.tokenizations.get(DATASET, MODEL, variant=CALM))


def write_corpus(path: pathlib.Path) -> pathlib.Path:
    """About 160 KiB of text; a few documents share theirs."""
    with path.open("w") as file:
        for number in range(600):
            # Every document has words of its own but those that occur again, far behind the first time.
            text = f"Document {number % 590}: " + " ".join(random.Random(number % 590).choices(_WORDS, k=45))
            file.write(json.dumps({"text": text}) + "\n")
    return path
