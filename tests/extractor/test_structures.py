"""Hooks are checked by what the model is made of when something is created, as far as the server reaches its files."""

import asyncio
import json
import os
import pathlib
import signal

import pytest

from polytok import errors
from polytok.catalog.v1 import models_pb2
from polytok.extractor.v1 import extractions_pb2
from polytok.trainer.v1 import saes_pb2, trainings_pb2
from services.activations.structure_cache import ModelStructureCache
from services.trainer.server.migrations.schema import runner
from tests.catalog import harness as catalog_harness
from tests.extractor import trainer_harness
from tests.extractor.harness import expect_error
from tests.support import messages, processes

pytestmark = pytest.mark.timeout(400)
ODD = ("blocks.0.mlp.hook_post",)
"""A hook that not every model has."""
POINTS = (
    "attn.hook_z",
    "hook_attn_out",
    "hook_mlp_out",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_resid_pre",
    "mlp.hook_post",
)
MEANT = ("blocks.1.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid")
"""What is close to hook_resid_pots."""


def _write(folder: pathlib.Path, **changes: object) -> pathlib.Path:
    """Return a model's config.json, and no weights."""
    folder.mkdir(exist_ok=True)
    configuration = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 1000} | changes
    (folder / "config.json").write_text(json.dumps(configuration))
    return folder


@pytest.fixture
async def structures():
    made = ModelStructureCache(service="test", seconds=170)
    yield made
    await made.close()


async def test_a_structure_is_computed_once(structures, tmp_path):
    model = models_pb2.Model(repo_id=str(_write(tmp_path / "model")))
    assert structures.pid == 0
    # At once, too, it is asked for once.
    asked = asyncio.gather(structures.of(model, ODD), structures.of(model, ODD))
    turns = 0
    while not asked.done():
        await asyncio.sleep(0.01)
        turns += 1
    # Starting torch takes seconds; blocking the loop for that would leave it no turn.
    assert turns > 3
    first, second = asked.result()
    assert first is second
    assert (first.kind, first.n_layers, first.blocks) == ("gpt2", 2, "transformer.h")
    assert "transformer.h.1.attn.c_proj" in first.modules
    pid = structures.pid
    os.kill(pid, signal.SIGKILL)
    assert await structures.of(model, ODD) is first
    # Another configuration in its place is another model.
    _write(tmp_path / "model", n_layer=3)
    assert (await structures.of(model, ODD)).n_layers == 3
    assert structures.pid not in (0, pid)
    await structures.close()
    assert not processes.is_alive(pid)


async def test_missing_files_start_no_process(structures, tmp_path):
    for place in (tmp_path / "nowhere", tmp_path):
        assert await structures.of(models_pb2.Model(repo_id=str(place)), ODD) is None
    never = ModelStructureCache(service="test", seconds=0)
    assert await never.of(models_pb2.Model(repo_id=str(_write(tmp_path / "model"))), ODD) is None
    assert (structures.pid, never.pid) == (0, 0)


@pytest.mark.long
async def test_common_hooks_need_no_structure(structures, tmp_path):
    names = ["hook_embed", "blocks.1.hook_resid_post", "blocks.*.attn.hook_z"]
    folder = str(_write(tmp_path / "model"))
    assert await structures.of(models_pb2.Model(repo_id=folder, n_layers=2), names) is None
    assert structures.pid == 0
    # Without the number of layers, or beyond it, they are.
    assert await structures.of(models_pb2.Model(repo_id=folder), names) is not None
    assert await structures.of(models_pb2.Model(repo_id=folder, n_layers=1), names) is not None


async def test_invalid_models_are_left_to_the_worker(structures, tmp_path):
    model = models_pb2.Model(repo_id=str(_write(tmp_path / "model", model_type="toaster")))
    assert await structures.of(model, ODD) is None
    pid = structures.pid
    os.kill(pid, signal.SIGKILL)
    # Which is remembered for a while: nobody waits for it again, and no process is started.
    assert await structures.of(model, ODD) is None
    assert structures.pid in (0, pid)


@pytest.mark.long
async def test_waiting_is_bounded(tmp_path):
    model = models_pb2.Model(repo_id=str(_write(tmp_path / "model")))
    hasty = ModelStructureCache(service="test", seconds=0.01)
    try:
        assert await hasty.of(model, ODD) is None
        # The question goes on, for those who come after.
        async with asyncio.timeout(170):
            while (found := await hasty.of(model, ODD)) is None:  # noqa: ASYNC110  another process is to be ready
                await asyncio.sleep(0.05)
        assert found.n_layers == 2
    finally:
        await hasty.close()


@pytest.fixture
async def small(extractor, catalog, tokenized, tmp_path):
    """Return a model whose folder the server reaches, tokenized for."""
    await catalog.create_model("small", repo_id=str(_write(tmp_path / "small")))
    worker = catalog_harness.FakeWorker(catalog)
    await worker.inspect("small", context_length=64)
    await worker.finish(await catalog.tokenize("docs", "small", max_length=32))
    return "small"


async def test_unknown_hooks_are_refused_at_creation(extractor, small, migrated_database_settings, messaging_settings):
    async def wrong(*hooks):
        async with expect_error(errors.InvalidArgument, "HOOK_NOT_FOUND") as caught:
            await extractor.create(model=small, hooks=list(hooks))
        return caught[0]

    model = await extractor.catalog.models.GetModel(models_pb2.GetModelRequest(name="models/small"))
    await _known(extractor.extractor.structures, model)
    error = await wrong("blocks.0.hook_mlp_out", "blocks.1.hook_resid_pots", "transformer.h.1.mpl")
    hook, module = error.violations
    assert (hook.field, module.field) == ("parameters.hooks[1]", "parameters.hooks[2]")
    messages.check_names(hook.description, "blocks.1.hook_resid_pots", "gpt2", "'hook_resid_pots'", *POINTS, *MEANT)
    modules = "transformer.h.1.mlp", "transformer.h.1", "transformer.h.1.ln_2"
    messages.check_names(module.description, "transformer.h.1.mpl", "gpt2", *modules)
    for each in (hook, module):
        messages.check_names(error.message, each.description)
    # One that is for every layer is reported once.
    assert len((await wrong("blocks.*.hook_nope")).violations) == 1
    messages.check_names((await wrong("transformer.h.2.mlp")).message, "transformer.h.2.mlp", "layer 2", 0, 1)
    request = extractions_pb2.EstimateExtractionRequest(
        dataset="datasets/docs",
        model="models/small",
        parameters=extractions_pb2.ExtractionParameters(hooks=["blocks.0.hook_nope"], context_size=8),
    )
    async with expect_error(errors.InvalidArgument, "HOOK_NOT_FOUND"):
        await extractor.stub.EstimateExtraction(request)
    assert await extractor.holders() == []
    right = ["blocks.*.hook_resid_post", "hook_embed", "transformer.h.1.mlp"]
    assert (await extractor.create(model=small, hooks=right)).parameters.hooks[-1] == "transformer.h.1.mlp"
    await _trainings(extractor, model, migrated_database_settings, messaging_settings)


async def _known(structures, model):
    """Wait until a server knows what a model is made of: on a busy machine that takes longer than calls wait."""
    async with asyncio.timeout(170):
        while await structures.of(model, ODD) is None:
            pass


async def _trainings(extractor, model, database_settings, messaging_settings):
    def sae(hook):
        return saes_pb2.Sae(hook=hook, d_sae=16, topk=saes_pb2.TopK(k=2))

    live = {"dataset": "datasets/docs", "model": "models/small"}
    await asyncio.to_thread(runner.upgrade, database_settings)
    async with trainer_harness.run_trainer(extractor, database_settings, messaging_settings) as trainer:
        request = trainings_pb2.CreateTrainingRequest(
            training_id="t1",
            source=trainings_pb2.TrainingSource(live=live),
            saes=[sae("blocks.1.hook_resid_post"), sae("blocks.1.hook_resid_pots"), sae("blocks.2.hook_resid_post")],
            parameters=trainings_pb2.TrainingParameters(batch_size=4, total_samples=8),
        )
        await _known(trainer.trainer.structures, model)
        async with expect_error(errors.InvalidArgument, "HOOK_NOT_FOUND") as caught:
            await trainer.stub.CreateTraining(request)
        assert [each.field for each in caught[0].violations] == ["saes[1].hook", "saes[2].hook"]
        messages.check_names(caught[0].message, "'hook_resid_pots'", *POINTS, *MEANT)
        messages.check_names(caught[0].message, "blocks.2.hook_resid_post", "layer 2", "models/small", 0, 1)
        del request.saes[1:]
        assert (await trainer.stub.CreateTraining(request)).name == "trainings/t1"


async def test_hook_that_was_not_extracted(extractor, tokenized, migrated_database_settings, messaging_settings):
    ready = await extractor.finish(await extractor.create("mine"))
    await asyncio.to_thread(runner.upgrade, migrated_database_settings)
    async with trainer_harness.run_trainer(extractor, migrated_database_settings, messaging_settings) as trainer:
        async with expect_error(errors.InvalidArgument, "HOOK_NOT_FOUND") as caught:
            await trainer.create("t1", hook="blocks.1.hook_resid_pots", extraction=ready.name)
        names = "blocks.1.hook_resid_pots", "extractions/mine", "blocks.1.hook_resid_post"
        messages.check_names(caught[0].message, *names)
        assert [each.field for each in caught[0].violations] == ["saes[0].hook"]
