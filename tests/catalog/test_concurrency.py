"""Everybody at once: whatever users and workers do in whichever order, records, jobs and files fit together."""

import asyncio
import contextlib
import random

import grpc.aio
import pytest
import sqlalchemy as sa

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tokenizations_pb2
from services.catalog.server import tables
from tests.catalog import harness

EXPECTED = (errors.NotFound, errors.FailedPrecondition, errors.Aborted, errors.AlreadyExists)
STEPS = 25


@pytest.mark.parametrize("seed", range(3))
async def test_random_concurrent_calls(catalog, worker, seed):
    await catalog.create_model("gpt2")
    await worker.inspect("gpt2")
    users = [_user(catalog, random.Random(100 * seed + number)) for number in range(4)]
    # The fake worker ingests a dataset from the first stage to the last; two at once would take each other's stages.
    alone = {name: asyncio.Lock() for name in ("a", "b")}
    workers = [_worker(catalog, random.Random(100 * seed + 50 + number), alone) for number in range(3)]
    working = [asyncio.create_task(each) for each in workers]
    await asyncio.gather(*users)
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    assert [task for task in working if not task.cancelled()] == []
    await _calm(catalog)
    await catalog.catalog.garbage_collector.collect()
    await _check(catalog)
    for name in ("a", "b"):
        await _make(catalog, worker, name)
    await _check(catalog)


async def _tolerant(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        found = harness.as_error(error)
        if not isinstance(found, EXPECTED):
            raise found from error


async def _user(catalog, chance):
    for _ in range(STEPS):
        weights, calls = zip(*_calls(catalog, chance.choice(["a", "b"])), strict=True)
        await _tolerant(chance.choices(calls, weights)[0]())
        # Time for a worker to come in between.
        await asyncio.sleep(chance.random() * 0.1)


def _calls(catalog, dataset):
    name = f"datasets/{dataset}/tokenizations/gpt2"
    datasets, tokenizations = catalog.datasets, catalog.tokenizations
    return [
        (4, lambda: catalog.create_dataset(dataset)),
        (9, lambda: catalog.tokenize(dataset, "gpt2")),
        (2, lambda: tokenizations.CancelTokenization(tokenizations_pb2.CancelTokenizationRequest(name=name))),
        (3, lambda: tokenizations.RetryTokenization(tokenizations_pb2.RetryTokenizationRequest(name=name))),
        (2, lambda: tokenizations.DeleteTokenization(tokenizations_pb2.DeleteTokenizationRequest(name=name))),
        (1, lambda: datasets.CancelDataset(_of(datasets_pb2.CancelDatasetRequest, dataset))),
        (2, lambda: datasets.RetryDataset(_of(datasets_pb2.RetryDatasetRequest, dataset))),
        (1, lambda: datasets.DeleteDataset(_of(datasets_pb2.DeleteDatasetRequest, dataset, force=True))),
    ]


def _of(kind, dataset, **fields):
    return kind(name=f"datasets/{dataset}", **fields)


async def _worker(catalog, chance, alone):
    hand = harness.FakeWorker(catalog)
    while True:
        # A pause, for there is no event to wait for.
        await asyncio.sleep(0.01)
        # Nothing may be due; a raw shard's folder may go with its dataset.
        with contextlib.suppress(IndexError, errors.NotFound):
            await _tolerant(_work(catalog, hand, chance, alone))


async def _work(catalog, hand, chance, alone):
    name = chance.choice(["a", "b"])
    if chance.random() < 0.5:
        async with alone[name]:
            await hand.ingest(name)
    else:
        await hand.finish(await catalog.tokenization(f"datasets/{name}/tokenizations/gpt2"))


async def _calm(catalog):
    """End what goes on; a task that a worker left behind goes with the cancel."""
    for name in ("a", "b"):
        await _tolerant(catalog.datasets.CancelDataset(_of(datasets_pb2.CancelDatasetRequest, name)))
        request = tokenizations_pb2.CancelTokenizationRequest(name=f"datasets/{name}/tokenizations/gpt2")
        await _tolerant(catalog.tokenizations.CancelTokenization(request))


async def _make(catalog, worker, name):
    """Bring a dataset and its tokenization to READY, whatever the storm made of them."""
    dataset = await catalog.create_dataset(name)
    if dataset.state == datasets_pb2.Dataset.STATE_CANCELLED:
        await catalog.datasets.RetryDataset(_of(datasets_pb2.RetryDatasetRequest, name))
    if dataset.state != datasets_pb2.Dataset.STATE_READY:
        await worker.ingest(name)
    made = await catalog.tokenize(name, "gpt2")
    if made.state == tokenizations_pb2.Tokenization.STATE_CANCELLED:
        made = await catalog.tokenizations.RetryTokenization(tokenizations_pb2.RetryTokenizationRequest(name=made.name))
    await worker.finish(made)
    assert (await catalog.tokenization(made.name)).state == tokenizations_pb2.Tokenization.STATE_READY


async def _check(catalog):
    listed = await catalog.tokenizations.ListTokenizations(
        tokenizations_pb2.ListTokenizationsRequest(parent="datasets/-")
    )
    datasets = await catalog.datasets.ListDatasets(datasets_pb2.ListDatasetsRequest())
    async with catalog.database.connection() as conn:
        shards = set((await conn.execute(sa.select(tables.dataset_shards.c.key))).scalars())
        files = (
            await conn.execute(
                sa.select(tables.tokenization_files.c.key)
                .join(tables.dataset_tokenizations)
                .where(tables.dataset_tokenizations.c.status == "READY")
            )
        ).scalars()
        manifests = set(files) | shards
        states = (await conn.execute(sa.select(tables.jobs.jobs.c.state).distinct())).scalars()
        assert "ACTIVE" not in set(states)
    for dataset in datasets.datasets:
        if dataset.state == datasets_pb2.Dataset.STATE_READY:
            manifests.add(f"datasets/{dataset.uid}/raw/state.json")
    for each in listed.tokenizations:
        if each.state == tokenizations_pb2.Tokenization.STATE_READY:
            folder = "datasets" + each.tokenized_path.rpartition("/datasets")[2]
            manifests |= {f"{folder}/{name}" for name in ("state.json", "dataset_info.json", "polytok.json")}
    assert set(catalog.storage.list("datasets")) == manifests
    resources = {each.name for each in (*datasets.datasets, *listed.tokenizations)} | {"models/gpt2"}
    async with catalog.database.connection() as conn:
        assert set((await conn.execute(sa.select(tables.jobs.jobs.c.resource))).scalars()) <= resources
    assert await catalog.count(tables.jobs.outbox) == 0
