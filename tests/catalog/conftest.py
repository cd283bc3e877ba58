"""The real catalog over the test's own database, NATS namespace and storage, and a worker driven by hand."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from polytok.catalog.v1 import datasets_pb2
from tests.catalog import hands
from tests.catalog.doing import Doer
from tests.client import material

if TYPE_CHECKING:
    import pathlib

    from services.runtime import settings
    from services.runtime import storage as storages
    from services.runtime.database import Database


@pytest.fixture
async def catalog(
    database: Database,
    migrated_database_settings: settings.DatabaseSettings,
    messaging_settings: settings.MessagingSettings,
    storage: storages.Storage,
) -> AsyncIterator[hands.Running]:
    """A catalog that serves, and its stubs."""
    async with hands.running(database, migrated_database_settings, messaging_settings, storage) as running:
        yield running


@pytest.fixture
def worker(catalog: hands.Running) -> hands.Worker:
    """A worker that does what a test tells it to."""
    return hands.Worker(catalog)


@pytest.fixture
def doer(catalog: hands.Running) -> Doer:
    """A worker that does tasks as a real one does."""
    return Doer(catalog)


@pytest.fixture
async def docs(catalog: hands.Running, doer: Doer, tmp_path: pathlib.Path) -> hands.Running:
    """A dataset of several shards, and two models of one tokenizer."""
    texts = [f"{text} Number {number}." for number, text in enumerate(material.TEXTS * 2)]
    source = material.write_jsonl(tmp_path / "docs.jsonl", [*texts, *texts[:5]])
    created = await catalog.create_dataset("docs", source=hands.file_source(str(source)))
    await doer.run(created.job)
    folder = material.write_model(tmp_path / "small")
    for name in ("small", "other"):
        path = folder if name == "small" else shutil.copytree(folder, tmp_path / name)
        await doer.run((await catalog.create_model(name, repo_id=str(path))).job)
    assert (await catalog.dataset("docs")).state == datasets_pb2.Dataset.STATE_READY
    return catalog
