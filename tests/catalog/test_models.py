"""Models: creation, inspection, deletion, and what users read when something is wrong."""

import re

import pytest

from polytok import errors
from polytok.catalog.v1 import models_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.catalog.server import tables
from tests.catalog.harness import expect_error
from tests.support.messages import check_names

State = models_pb2.Model.State


async def _model(catalog, name):
    return await catalog.models.GetModel(models_pb2.GetModelRequest(name=f"models/{name}"))


async def test_inspection_makes_a_model_ready(catalog, worker):
    created = await catalog.create_model("gpt2", repo_id="openai/gpt2", revision="main", metadata={"a": "b"})
    assert created.name == "models/gpt2"
    assert re.fullmatch("m_[0-9a-f]{8}", created.uid)
    assert created.state == State.STATE_PENDING
    leased = await worker.take(created.job)
    assert leased.lease.kind == "model.inspect"
    assert leased.payload(tasks_pb2.InspectModelTask) == tasks_pb2.InspectModelTask(
        tokenizer=tasks_pb2.TokenizerReference(repo_id="openai/gpt2", revision="main"),
        repo_id="openai/gpt2",
        revision="main",
    )
    await leased.complete(
        tasks_pb2.InspectModelResult(
            tokenizer_fingerprint="f" * 64,
            tokenizer_class="GPT2Tokenizer",
            vocab_size=50257,
            special_tokens=[models_pb2.SpecialToken(role="eos_token", text="<|endoftext|>", id=50256)],
            architecture="GPT2LMHeadModel",
            d_model=768,
            n_layers=12,
            context_length=1024,
            commit="c" * 40,
            chat_template_fingerprint="e" * 64,
        )
    )
    ready = await _model(catalog, created.uid)
    assert ready.state == State.STATE_READY
    assert (ready.vocab_size, ready.d_model, ready.n_layers, ready.context_length) == (50257, 768, 12, 1024)
    assert ready.special_tokens[0] == models_pb2.SpecialToken(role="eos_token", text="<|endoftext|>", id=50256)
    assert ready.tokenizer_fingerprint == "f" * 64
    assert (ready.revision, ready.commit, ready.chat_template_fingerprint) == ("main", "c" * 40, "e" * 64)


async def test_workers_get_the_resolved_commit(catalog, worker):
    for name, source, commits, expected in (
        ("own", {"repo_id": "a/b"}, {"commit": "c" * 40, "tokenizer_commit": "c" * 40}, ("a/b", "c" * 40)),
        ("other", {"repo_id": "a/b", "tokenizer_repo_id": "c/d"}, {"tokenizer_commit": "d" * 40}, ("c/d", "d" * 40)),
    ):
        created = await catalog.create_model(name, **source)
        found = tasks_pb2.InspectModelResult(tokenizer_fingerprint="f" * 64, vocab_size=9, **commits)
        await (await worker.take(created.job)).complete(found)
        await catalog.create_dataset(f"docs-{name}")
        await worker.ingest(f"docs-{name}")
        tokenization = await catalog.tokenize(f"docs-{name}", name)
        task = (await worker.take(tokenization.job)).payload(tasks_pb2.TokenizeShardTask)
        assert (task.tokenizer.repo_id, task.tokenizer.revision) == expected
        assert tokenization.tokenizer_revision == expected[1]
        assert (await _model(catalog, name)).tokenizer_commit == ("" if name == "own" else "d" * 40)


async def test_separate_tokenizer_repository(catalog, worker):
    created = await catalog.create_model("mine", repo_id="a/b", revision="v1", tokenizer_repo_id="c/d")
    task = (await worker.take(created.job)).payload(tasks_pb2.InspectModelTask)
    assert task.tokenizer == tasks_pb2.TokenizerReference(repo_id="c/d")
    assert (task.repo_id, task.revision) == ("a/b", "v1")


async def test_same_source_returns_the_existing_model(catalog):
    created = await catalog.create_model("gpt2", repo_id="openai/gpt2")
    assert await catalog.create_model("gpt2", repo_id="openai/gpt2") == created
    async with expect_error(errors.AlreadyExists, "RESOURCE_EXISTS") as caught:
        await catalog.create_model("gpt2", repo_id="openai/gpt2", revision="v2")
    assert caught[0].metadata["resource"] == "models/gpt2"
    for text in (caught[0].message, caught[0].metadata["differs"]):
        check_names(text, "revision", "unset", "'v2'")


@pytest.mark.parametrize("name", ["m_0123abcd", "../gpt2", "GPT2"])
async def test_bad_ids_are_refused(catalog, name):
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD"):
        await catalog.create_model(name)
    assert await catalog.count(tables.models) == 0


async def test_relative_paths_are_refused(catalog):
    async with expect_error(errors.InvalidArgument, "INVALID_FIELD") as caught:
        await catalog.create_model("gpt2", repo_id="./gpt2")
    assert [violation.field for violation in caught[0].violations] == ["model.repo_id"]
    check_names(caught[0].message, "model.repo_id", "'./gpt2'", "relative")


async def test_unknown_model_suggests_close_names(catalog):
    await catalog.create_model("gpt2")
    async with expect_error(errors.NotFound, "RESOURCE_NOT_FOUND") as caught:
        await _model(catalog, "gpt3")
    assert caught[0].metadata == {"resource": "models/gpt3"}
    check_names(caught[0].message, "'gpt3'", "'gpt2'", "`polytok model list`")


async def test_retry_of_a_failed_inspection(catalog, worker):
    created = await catalog.create_model("gpt2")
    leased = await worker.take(created.job)
    await leased.fail("TOKENIZER_INVALID", "/models/gpt2 holds no tokenizer.json.")
    failed = await _model(catalog, "gpt2")
    assert failed.state == State.STATE_ERROR
    assert failed.error_reason == "TOKENIZER_INVALID"
    assert failed.error_message == "/models/gpt2 holds no tokenizer.json."
    retried = await catalog.models.RetryModel(models_pb2.RetryModelRequest(name="models/gpt2"))
    assert (retried.state, retried.error_message) == (State.STATE_PENDING, "")
    await worker.inspect("gpt2")
    assert (await _model(catalog, "gpt2")).state == State.STATE_READY
    async with expect_error(errors.FailedPrecondition, "WRONG_STATE") as caught:
        await catalog.models.RetryModel(models_pb2.RetryModelRequest(name="models/gpt2"))
    assert caught[0].metadata == {"resource": "models/gpt2", "state": "READY"}
    check_names(caught[0].message, "models/gpt2", "READY", "ERROR")


async def test_result_of_another_type_is_an_error(catalog, worker):
    created = await catalog.create_model("gpt2")
    leased = await worker.take(created.job)
    await leased.complete(tasks_pb2.PublishTokenizationResult())
    failed = await _model(catalog, "gpt2")
    assert (failed.state, failed.error_reason) == (State.STATE_ERROR, "INTERNAL")
    check_names(failed.error_message, "InspectModelResult")


async def test_update_and_list(catalog):
    first = await catalog.create_model("a")
    second = await catalog.create_model("b")
    changed = models_pb2.Model(name="models/a", metadata={"k": "v"}, etag=first.etag)
    updated = await catalog.models.UpdateModel(models_pb2.UpdateModelRequest(model=changed))
    assert dict(updated.metadata) == {"k": "v"}
    page = await catalog.models.ListModels(models_pb2.ListModelsRequest(page_size=1))
    assert [model.uid for model in page.models] == [second.uid]
    page = await catalog.models.ListModels(models_pb2.ListModelsRequest(page_size=1, page_token=page.next_page_token))
    assert [model.uid for model in page.models] == [first.uid]
    assert page.next_page_token == ""


async def test_delete_with_tokenizations_needs_force(catalog, worker):
    await catalog.create_dataset("docs")
    await worker.ingest("docs")
    await catalog.create_model("gpt2")
    await worker.inspect("gpt2")
    tokenization = await catalog.tokenize("docs", "gpt2")
    leased = await worker.take(tokenization.job)
    request = models_pb2.DeleteModelRequest(name="models/gpt2")
    async with expect_error(errors.FailedPrecondition, "RESOURCE_HELD") as caught:
        await catalog.models.DeleteModel(request)
    assert caught[0].metadata == {"resource": "models/gpt2", "holders": tokenization.name}
    check_names(caught[0].message, "models/gpt2", 1, tokenization.name, "`polytok model delete gpt2 --force`")
    assert (await catalog.tokenization(tokenization.name)).state == 2  # still PROCESSING
    await catalog.models.DeleteModel(models_pb2.DeleteModelRequest(name="models/gpt2", force=True))
    async with expect_error(errors.Aborted, "LEASE_LOST"):
        await leased.complete(leased.shard_result())
    assert await catalog.count(tables.dataset_tokenizations) == 0
    assert (await catalog.dataset("docs")).state == 4  # READY, as it was


async def test_delete_during_inspection(catalog, worker):
    created = await catalog.create_model("gpt2")
    leased = await worker.take(created.job)
    await catalog.models.DeleteModel(models_pb2.DeleteModelRequest(name="models/gpt2"))
    async with expect_error(errors.Aborted, "LEASE_LOST"):
        await leased.complete(tasks_pb2.InspectModelResult())
    assert await catalog.count(tables.jobs.jobs) == 0
