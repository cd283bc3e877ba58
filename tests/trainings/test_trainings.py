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
from tests.trainings import material
from tests.trainings.scene import DATASET, MODEL, Scene, eventually


async def test_two_autoencoders_are_trained_and_open_in_saelens(scene: Scene) -> None:
    saes = [material.sae(), material.sae(material.EARLIER, "batchtopk", name="early")]
    created = await scene.create("both", saes=saes)
    assert watch_stream.state(created) == "QUEUED"
    assert [sae.name for sae in created.saes] == [f"{material.HOOK}-topk", "early"]
    assert {sae.d_in for sae in created.saes} == {material.D_MODEL}
    assert created.lineage.tokenization == f"datasets/{DATASET}/tokenizations/{MODEL}"
    updates = [update async for update in scene.client.trainings.follow(created)]
    made = updates[-1].training
    assert (watch_stream.state(made), made.progress, made.step) == ("READY", 100, 40)
    ((phase,),) = await scene.rows("SELECT phase FROM trainer.trainings WHERE id = $1", uuid.UUID(made.uid))
    assert (phase, made.phase) == ("EXPORTING", made.PHASE_UNSPECIFIED)
    rows = [row for update in updates for row in update.metrics]
    assert {(row.sae, row.step) for row in rows if row.WhichOneof("figures") == "training"} == {
        (name, step) for name in (f"{material.HOOK}-topk", "early") for step in range(1, 41)
    }
    assert len(await scene.metrics("both")) == 80
    assert {row.sae for row in await scene.metrics("both", "evaluation")} == {sae.name for sae in made.saes}
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
    with pytest.raises(errors.InvalidArgument, match="has 2 autoencoders; name one of"):
        await scene.client.sae_path("both")
    assert await scene.client.sae_path("both", "early") == made.results[1].path
    await _nothing_left(scene, made)


def _opens(result: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE

        sae = SAE.load_from_disk(result.path)
    assert sae.cfg.architecture() == result.architecture
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (result.d_in, result.d_sae)
    assert torch.isfinite(sae(torch.randn(4, result.d_in))).all()


async def _nothing_left(scene: Scene, record: Any) -> None:
    """Waits until the checkpoints are gone, and the tokenization is free."""

    async def only_the_export() -> bool:
        left = {path.relative_to(scene.folder(record)).parts[1] for path in scene.folder(record).rglob("*.*")}
        return left == {"saes"}

    await eventually(only_the_export, "the checkpoints of a training that is READY are gone")
    assert await scene.client.trainings.checkpoints(record) == []

    async def is_free() -> bool:
        return record.name not in await scene.holders()

    await eventually(is_free, "the tokenization is not held any more")


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_the_same_again_is_the_same_and_another_is_refused(scene: Scene) -> None:
    first = await scene.create("twice")
    again = await scene.create("twice")
    assert again.uid == first.uid
    with pytest.raises(errors.AlreadyExists, match="batch_size 64, not 32"):
        await scene.create("twice", batch_size=32)
    with pytest.raises(errors.AlreadyExists, match=r"topk\.k 8, not 4"):
        await scene.create("twice", saes=[material.sae(k=4)])
    await scene.ready("twice")
    unnamed = await scene.create("", seed=7)
    assert unnamed.name.startswith(f"trainings/{DATASET}-{MODEL}-")
    assert (await scene.create("", seed=7)).uid == unnamed.uid
    listed = [each.name async for each in scene.client.trainings.list()]
    assert listed.index(unnamed.name) < listed.index("trainings/twice")
    await scene.client.trainings.delete(unnamed)
    with pytest.raises(errors.NotFound, match="No training is called"):
        await scene.client.trainings.get(unnamed)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_pages_of_metrics(scene: Scene) -> None:
    from polytok.trainer.v1 import trainings_pb2, trainings_pb2_grpc

    await scene.create("paged", saes=[material.sae(), material.sae(architecture="standard")])
    await scene.ready("paged")
    stub: Any = scene.client.trainings._via.stub(trainings_pb2_grpc.TrainingServiceStub)
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
    only = [row async for row in scene.client.trainings.metrics("paged", sae=f"{material.HOOK}-standard")]
    assert len(only) == 41


@pytest.mark.parametrize(
    ("asked", "kind", "told"),
    [
        ({"saes": [material.sae(d_sae=4)]}, errors.InvalidArgument, "k is 8; it must lie between 1 and d_sae, 4"),
        ({"saes": [material.sae("blocks.7.hook_resid_post")]}, errors.InvalidArgument, "has layers 0 to 1"),
        ({"saes": [material.sae(d_in=16)]}, errors.InvalidArgument, "has a width of 32. Leave it out"),
        ({"saes": [material.sae(l1_coefficient=1)]}, errors.InvalidArgument, "has no 'l1_coefficient'"),
        ({"saes": [{"hook": "x", "architecture": "dense", "d_sae": 4}]}, errors.InvalidArgument, "is no architecture"),
        ({"total_samples": 10}, errors.InvalidArgument, "needs at least one batch of 64"),
        ({"buffer_samples": 10}, errors.InvalidArgument, "buffer_samples is 10"),
        ({"name": "Bad Name"}, errors.InvalidArgument, "training_id"),
        ({"processes": 0}, errors.InvalidArgument, "parameters.processes: must be greater than or equal to 1"),
        ({"processes": 65}, errors.InvalidArgument, "parameters.processes: must be .* less than or equal to 64"),
        ({"processes": 3}, errors.InvalidArgument, "batch_size is 64, which 3 processes cannot share evenly"),
        ({"processes": 2, "spread": "autoencoders"}, errors.InvalidArgument, "is 2, and there is 1 autoencoder"),
        ({"spread": "evenly"}, errors.InvalidArgument, "'evenly' is no spread; one of: data, autoencoders"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_nonsense_is_refused(scene: Scene, asked: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        await scene.create(**({"name": "nonsense"} | asked))


async def test_more_processes_than_the_worker_has_devices(scene: Scene) -> None:
    await scene.create("many", processes=4)
    record = await scene.state("many", "ERROR")
    assert "parameters.processes is 4; each needs a device of its own" in record.error_message
    assert "POLYTOK_TRAINER_PROCESSES allows 2. Create the training with 2 at most" in record.error_message
    assert await scene.outcomes(record) == ["FAILED"]  # the same again would fail again


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_without_a_tokenization_that_is_ready(scene: Scene, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.NotFound, match="No model is called 'gpt3'"):
        await scene.client.trainings.create(DATASET, "gpt3", saes=[material.sae()])
    (tmp_path / "broken").mkdir()
    broken = await scene.client.models.create("broken", str(tmp_path / "broken"))
    with pytest.raises(errors.InvalidArgument):
        await scene.client.models.wait(broken, timeout=60)
    with pytest.raises(errors.FailedPrecondition, match="polytok model retry broken"):
        await scene.client.trainings.create(DATASET, "broken", saes=[material.sae()])
    with pytest.raises(errors.NotFound, match=f"polytok tokenize {DATASET} --model {MODEL} --variant none"):
        await scene.client.trainings.create(DATASET, MODEL, variant="none", saes=[material.sae()])
    nothing = await scene.client.tokenizations.create(
        DATASET, MODEL, variant="none", filters={"min_characters": 1_000_000}
    )
    with pytest.raises(errors.FailedPrecondition):
        await scene.client.tokenizations.wait(nothing, timeout=60)
    with pytest.raises(errors.FailedPrecondition, match=r"is ERROR; mend the cause and try again with .polytok tok"):
        await scene.client.trainings.create(DATASET, MODEL, variant="none", saes=[material.sae()])
    assert [each async for each in scene.client.trainings.list(states=["QUEUED"])] == []


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_hook_that_only_the_model_knows_about(scene: Scene) -> None:
    async def refused() -> str:
        try:
            await scene.create("hookless", saes=[material.sae("blocks.1.hook_nothing")])
        except errors.InvalidArgument as error:
            return error.message
        # The server did not get to know the model in the time that a call takes: the worker tells.
        return ""

    message = await eventually(refused, "the hook is refused", 240)
    assert "have no 'hook_nothing'; they have attn.hook_z" in message
    assert "hook_resid_post" in message
    await scene.create("module", saes=[material.sae("transformer.h.0.mlp.c_fc")])
    assert (await scene.ready("module")).results[0].d_in == 4 * material.D_MODEL
