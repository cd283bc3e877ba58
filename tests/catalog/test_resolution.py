"""ResolveTokenization: published tokenizations only, and many calls at once."""

import asyncio

import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from tests.catalog import harness
from tests.catalog.harness import expect_error
from tests.support.messages import check_names


@pytest.fixture
async def ready(catalog, worker):
    """Return a catalog with a dataset and a model that are READY."""
    await catalog.create_dataset("docs")
    await catalog.create_model("gpt2")
    await worker.ingest("docs")
    await worker.inspect("gpt2")
    return catalog


async def _resolve(catalog, dataset="docs", model="gpt2", variant=""):
    request = tokenizations_pb2.ResolveTokenizationRequest(
        dataset=f"datasets/{dataset}", model=f"models/{model}", variant=variant
    )
    return (await catalog.tokenizations.ResolveTokenization(request)).tokenization


async def test_names_and_uids_find_the_same(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    variant = await ready.tokenize("docs", "gpt2", variant="short", max_length=8)
    await worker.finish(created)
    await worker.finish(variant)
    record = await ready.tokenization(created.name)
    dataset_uid = (await ready.dataset("docs")).uid
    model_uid = "m_" + created.uid.partition("_m_")[2]
    for dataset in ("docs", dataset_uid):
        for model in ("gpt2", model_uid):
            assert await _resolve(ready, dataset, model) == record
            assert (await _resolve(ready, dataset, model, "short")).uid == variant.uid


async def test_concurrent_calls_get_their_own_answers(ready, worker):
    created = [await ready.tokenize("docs", "gpt2", variant=f"v{number}", max_length=8 + number) for number in range(5)]
    for each in created:
        await worker.finish(each)
    asked = [number % 5 for number in range(200)]
    answers = await asyncio.gather(*(_resolve(ready, variant=f"v{number}") for number in asked))
    assert [answer.uid for answer in answers] == [created[number].uid for number in asked]


async def test_only_published_tokenizations_are_found(ready, worker):
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await _resolve(ready)
    assert caught[0].metadata == {"resource": "datasets/docs/tokenizations/gpt2"}
    check_names(caught[0].message, "`polytok tokenize docs --model gpt2`")
    created = await ready.tokenize("docs", "gpt2")
    async with expect_error(errors.FailedPrecondition, "NOT_READY") as caught:
        await _resolve(ready)
    assert caught[0].metadata == {"resource": created.name, "state": "QUEUED"}
    check_names(caught[0].message, created.name, "QUEUED", "`polytok tokenization watch docs/gpt2`")
    leased = await worker.take(created.job)
    await leased.fail("TOKENIZER_INVALID", "/models/gpt2 holds no tokenizer.json.")
    async with expect_error(errors.FailedPrecondition, "NOT_READY") as caught:
        await _resolve(ready)
    assert caught[0].metadata == {"resource": created.name, "state": "ERROR"}
    check_names(caught[0].message, created.name, "ERROR", "`polytok tokenization retry docs/gpt2`")
    assert "/models/gpt2 holds no tokenizer.json." in caught[0].message, "the error of the record itself"


async def test_deletion_is_seen_at_once(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    await worker.finish(created)
    assert (await _resolve(ready)).uid == created.uid
    await ready.tokenizations.DeleteTokenization(tokenizations_pb2.DeleteTokenizationRequest(name=created.name))
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND"):
        await _resolve(ready)


async def test_misses_do_not_affect_concurrent_hits(ready, worker):
    created = await ready.tokenize("docs", "gpt2")
    await worker.finish(created)
    found, missed, other = await asyncio.gather(
        _resolve(ready), _resolve(ready, model="gpt3"), _resolve(ready, dataset="dcos"), return_exceptions=True
    )
    assert found.uid == created.uid
    assert harness.as_error(missed).metadata == {"resource": "models/gpt3"}
    assert harness.as_error(other).metadata == {"resource": "datasets/dcos"}
