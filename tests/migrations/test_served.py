"""The new catalog over what the version before left, while old code still runs and after."""

import asyncio

import asyncpg
import pytest

from polytok.catalog.v1 import datasets_pb2, models_pb2, tokenizations_pb2
from services.catalog.server import migrations
from services.catalog.server.migrations.schema import runner
from services.runtime import database as databases
from services.runtime import storage as storages
from services.runtime.migrations.runner import Phase
from services.runtime.settings import DatabaseSettings, MessagingSettings
from tests.catalog import harness
from tests.migrations import legacy


@pytest.mark.parametrize("phase", ["pre", "all"])
async def test_old_records_are_served(
    database_settings: DatabaseSettings,
    before: asyncpg.Connection,
    messaging_settings: MessagingSettings,
    storage: storages.Storage,
    phase: Phase,
) -> None:
    root = str(storage.local_path("datasets")).removesuffix("/datasets")
    await legacy.fill(before)
    identifier = await legacy.add(before, name="My Corpus")
    folder = f"datasets/{identifier}"
    columns = legacy.tokenized("org/Model", path=f"{root}/{folder}/tokenized") | {"raw_path": f"{root}/{folder}/raw"}
    places = ", ".join(f"{column} = ${place}" for place, column in enumerate(columns, start=2))
    await before.execute(f"UPDATE datasets SET {places} WHERE id = $1", identifier, *columns.values())
    files = [f"{folder}/raw/data.arrow", f"{folder}/tokenized/data.arrow"]
    for key in files:
        storage.write_bytes(key, b"old bytes")
    await asyncio.to_thread(runner.upgrade, database_settings, phase, storage_root=root)
    database = databases.open_database(database_settings, search_path=migrations.SEARCH_PATH)
    async with harness.run_catalog(database, database_settings, messaging_settings, storage) as serving:
        listed = await serving.datasets.ListDatasets(datasets_pb2.ListDatasetsRequest(page_size=1000))
        assert len(listed.datasets) == await before.fetchval("SELECT count(*) FROM public.datasets")
        await serving.models.ListModels(models_pb2.ListModelsRequest(page_size=1000))
        of_all = tokenizations_pb2.ListTokenizationsRequest(parent="datasets/-", page_size=1000)
        assert len((await serving.tokenizations.ListTokenizations(of_all)).tokenizations) > 100
        resolved = await serving.tokenizations.ResolveTokenization(
            tokenizations_pb2.ResolveTokenizationRequest(
                dataset=f"datasets/{'my-corpus'}-{str(identifier)[:8]}", model="models/org-model"
            )
        )
        assert resolved.tokenization.tokenized_path == f"{root}/{folder}/tokenized"
        assert resolved.tokenization.statistics.num_tokens == 1234
        assert await serving.catalog.garbage_collector.collect() == []
        assert [storage.read_bytes(key) for key in files] == [b"old bytes"] * 2
        await serving.create_dataset("new-one")
        # Old code's tables are as they were.
        count = "SELECT count(*) FROM public.datasets WHERE name = 'new-one'"
        assert await before.fetchval(count) == (0 if phase == "pre" else 1)
    await database.close()
