"""Trainings from create to the folders that SAELens opens, on a whole stack."""

import json
import pathlib
import uuid
import warnings
from typing import Any

import pytest
import torch

from polytok import errors
from polytok.client import watch_stream
from tests.support import messages
from tests.trainings import samples
from tests.trainings.training_harness import DATASET, MODEL, TrainingHarness, eventually


async def test_two_autoencoders_open_in_saelens(harness: TrainingHarness) -> None:
    saes = [samples.sae(), samples.sae(samples.EARLIER, "batchtopk", name="early")]
    created = await harness.create("both", saes=saes)
    assert watch_stream.state(created) == "QUEUED"
    assert [sae.name for sae in created.saes] == [f"{samples.HOOK}-topk", "early"]
    assert {sae.d_in for sae in created.saes} == {samples.D_MODEL}
    assert created.lineage.tokenization == f"datasets/{DATASET}/tokenizations/{MODEL}"
    updates = [update async for update in harness.client.trainings.follow(created)]
    made = updates[-1].training
    assert (watch_stream.state(made), made.progress, made.step) == ("READY", 100, 40)
    ((phase,),) = await harness.rows("SELECT phase FROM trainer.trainings WHERE id = $1", uuid.UUID(made.uid))
    assert (phase, made.phase) == ("EXPORTING", made.PHASE_UNSPECIFIED)
    rows = [row for update in updates for row in update.metrics]
    assert {(row.sae, row.step) for row in rows if row.WhichOneof("figures") == "training"} == {
        (name, step) for name in (f"{samples.HOOK}-topk", "early") for step in range(1, 41)
    }
    assert len(await harness.metrics("both")) == 80
    assert {row.sae for row in await harness.metrics("both", "evaluation")} == {sae.name for sae in made.saes}
    assert made.lineage.versions["sae-lens"]
    # 64 of 600 sequences of about one length are held out, at most a tenth of them.
    assert created.lineage.available_samples == pytest.approx(made.lineage.available_samples, rel=0.05)
    assert made.passes == 40 * 64 / made.lineage.available_samples
    for result in made.results:
        assert result.evaluation.figures["l0"] > 0
        assert "explained_variance" in result.evaluation.formulas
        _opens(result)
    manifest = json.loads((pathlib.Path(made.path) / "polytok.json").read_text())
    assert manifest["name"] == "trainings/both"
    assert manifest["lineage"]["weights_fingerprint"] == made.lineage.weights_fingerprint != ""
    assert {file["name"].partition("/")[0] for file in manifest["files"]} == {sae.name for sae in made.saes}
    with pytest.raises(errors.InvalidArgument) as caught:
        await harness.client.sae_path("both")
    messages.check_names(caught.value.message, "trainings/both", 2, *(sae.name for sae in made.saes))
    assert await harness.client.sae_path("both", "early") == made.results[1].path
    await _nothing_left(harness, made)


def _opens(result: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE

        sae = SAE.load_from_disk(result.path)
    assert sae.cfg.architecture() == result.architecture
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (result.d_in, result.d_sae)
    assert torch.isfinite(sae(torch.randn(4, result.d_in))).all()


async def _nothing_left(harness: TrainingHarness, record: Any) -> None:
    """Wait until the checkpoints are gone, and the tokenization is free."""

    async def only_the_export() -> bool:
        left = {path.relative_to(harness.folder(record)).parts[1] for path in harness.folder(record).rglob("*.*")}
        return left == {"saes"}

    await eventually(only_the_export, "the checkpoints of a training that is READY are gone")
    assert await harness.client.trainings.checkpoints(record) == []

    async def is_free() -> bool:
        return record.name not in await harness.holders()

    await eventually(is_free, "the tokenization is not held any more")


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_create_is_idempotent(harness: TrainingHarness) -> None:
    first = await harness.create("twice")
    again = await harness.create("twice")
    assert again.uid == first.uid
    for changes, names in (
        ({"batch_size": 32}, ("batch_size", 64, 32)),
        ({"saes": [samples.sae(k=4)]}, ("topk.k", 8, 4)),
    ):
        with pytest.raises(errors.AlreadyExists) as caught:
            await harness.create("twice", **changes)
        assert caught.value.metadata["resource"] == "trainings/twice"
        messages.check_names(caught.value.metadata["differs"], *names)
        messages.check_names(caught.value.message, "trainings/twice", *names)
    await harness.ready("twice")
    unnamed = await harness.create("", seed=7)
    assert unnamed.name.startswith(f"trainings/{DATASET}-{MODEL}-")
    assert (await harness.create("", seed=7)).uid == unnamed.uid
    listed = [each.name async for each in harness.client.trainings.list()]
    assert listed.index(unnamed.name) < listed.index("trainings/twice")
    await harness.client.trainings.delete(unnamed)
    with pytest.raises(errors.NotFound) as missing:
        await harness.client.trainings.get(unnamed)
    assert missing.value.metadata == {"resource": unnamed.name}


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_pages_of_metrics(harness: TrainingHarness) -> None:
    from polytok.trainer.v1 import trainings_pb2, trainings_pb2_grpc

    await harness.create("paged", saes=[samples.sae(), samples.sae(architecture="standard")])
    await harness.ready("paged")
    stub: Any = harness.client.trainings._transport.stub(trainings_pb2_grpc.TrainingServiceStub)
    token, seen = "", []
    while True:
        request = trainings_pb2.ListMetricsRequest(
            parent="trainings/paged", page_size=7, page_token=token, after_step=30
        )
        page = await stub.ListMetrics(request)
        seen += [(row.step, row.sae, row.WhichOneof("figures")) for row in page.metrics]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(set(seen))
    assert len(seen) == 2 * 10 + 2
    only = [row async for row in harness.client.trainings.metrics("paged", sae=f"{samples.HOOK}-standard")]
    assert len(only) == 41


@pytest.mark.parametrize(
    ("asked", "field", "names"),
    [
        ({"saes": [samples.sae(d_sae=4)]}, "saes[0].k", ["k", 8, "d_sae", 4]),
        ({"saes": [samples.sae("blocks.7.hook_resid_post")]}, "saes[0].hook", ["blocks.7.hook_resid_post", 0, 1]),
        ({"saes": [samples.sae(d_in=16)]}, "saes[0].d_in", ["d_in", 16, 32]),
        ({"saes": [samples.sae(l1_coefficient=1)]}, None, ["topk", "'l1_coefficient'", "k"]),
        ({"saes": [{"hook": "x", "architecture": "dense", "d_sae": 4}]}, None, ["'dense'", "topk", "standard"]),
        ({"total_samples": 10}, "parameters.total_samples", ["total_samples", 10, 64]),
        ({"buffer_samples": 10}, "buffer_samples", ["buffer_samples", 10, 64]),
        ({"name": "Bad Name"}, "training_id", ["training_id", "'Bad Name'"]),
        ({"processes": 0}, "parameters.processes", ["processes", 1]),
        ({"processes": 65}, "parameters.processes", ["processes", 64]),
        ({"processes": 3}, "batch_size", ["batch_size", 64, "3 processes"]),
        ({"processes": 2, "spread": "autoencoders"}, "processes", ["processes", 2, "1 autoencoder"]),
        ({"spread": "evenly"}, None, ["spread", "'evenly'", "data", "autoencoders"]),
    ],
    ids=str,
)
async def test_invalid_parameters(harness: TrainingHarness, asked: Any, field: str | None, names: list[object]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await harness.create(**({"name": "nonsense"} | asked))
    # What the client finds itself names no field of the request.
    assert [each.field for each in caught.value.violations] == ([field] if field else [])
    messages.check_names(caught.value.message, *names)


async def test_more_processes_than_devices(harness: TrainingHarness) -> None:
    await harness.create("many", processes=4)
    record = await harness.state("many", "ERROR")
    assert record.error_reason == "INVALID_FIELD"
    assert [each.field for each in record.error.violations] == ["parameters.processes"]
    messages.check_names(record.error_message, "parameters.processes", 4, "POLYTOK_TRAINER_PROCESSES", 2)
    assert await harness.outcomes(record) == ["FAILED"]  # the same again would fail again


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_tokenization_not_ready(harness: TrainingHarness, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.NotFound) as missing:
        await harness.client.trainings.create(DATASET, "gpt3", saes=[samples.sae()])
    assert missing.value.metadata == {"resource": "models/gpt3"}
    messages.check_names(missing.value.message, "'gpt3'")
    (tmp_path / "broken").mkdir()
    broken = await harness.client.models.create("broken", str(tmp_path / "broken"))
    with pytest.raises(errors.InvalidArgument):
        await harness.client.models.wait(broken, timeout=60)
    with pytest.raises(errors.FailedPrecondition) as caught:
        await harness.client.trainings.create(DATASET, "broken", saes=[samples.sae()])
    assert (caught.value.reason, caught.value.metadata["resource"]) == ("NOT_READY", "models/broken")
    messages.check_names(caught.value.message, "models/broken", "`polytok model retry broken`")
    variant = f"datasets/{DATASET}/tokenizations/{MODEL}~none"
    with pytest.raises(errors.NotFound) as missing:
        await harness.client.trainings.create(DATASET, MODEL, variant="none", saes=[samples.sae()])
    assert missing.value.metadata == {"resource": variant}
    command = f"`polytok tokenize {DATASET} --model {MODEL} --variant none`"
    messages.check_names(missing.value.message, variant, command)
    nothing = await harness.client.tokenizations.create(
        DATASET, MODEL, variant="none", filters={"min_characters": 1_000_000}
    )
    with pytest.raises(errors.FailedPrecondition):
        await harness.client.tokenizations.wait(nothing, timeout=60)
    with pytest.raises(errors.FailedPrecondition) as caught:
        await harness.client.trainings.create(DATASET, MODEL, variant="none", saes=[samples.sae()])
    assert caught.value.reason == "NOT_READY"
    assert caught.value.metadata == {"resource": variant, "state": "ERROR"}
    messages.check_names(caught.value.message, variant, "ERROR", "polytok tokenization retry")
    assert [each async for each in harness.client.trainings.list(states=["QUEUED"])] == []


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_hooks_that_need_the_model(harness: TrainingHarness) -> None:
    async def refused() -> errors.InvalidArgument | None:
        try:
            await harness.create("hookless", saes=[samples.sae("blocks.1.hook_nothing")])
        except errors.InvalidArgument as error:
            return error
        # The server did not get to know the model in the time that a call takes: the worker reports it.
        return None

    error = await eventually(refused, "the hook is refused", 240)
    assert (error.reason, [each.field for each in error.violations]) == ("HOOK_NOT_FOUND", ["saes[0].hook"])
    messages.check_names(error.message, "'hook_nothing'", "attn.hook_z", "hook_resid_post")
    await harness.create("module", saes=[samples.sae("transformer.h.0.mlp.c_fc")])
    assert (await harness.ready("module")).results[0].d_in == 4 * samples.D_MODEL
