"""Trainings whose files lie in a bucket: the worker's task over moto's server, its checkpoints, and what comes out."""

import hashlib
import json
import pathlib
import uuid
from typing import Any

import pytest
import torch
from google.protobuf import any_pb2
from safetensors.torch import load_file

from polytok import errors
from polytok.client import hub_export, trainings
from polytok.jobs.v1 import messages_pb2
from polytok.trainer.v1 import saes_pb2, tasks_pb2, trainings_pb2
from services.jobs import task_process_main
from services.runtime import storage as storages
from services.trainer.sae import architectures
from services.trainer.worker import train_task
from services.trainer.worker.worker_settings import TrainerSettings
from tests.support import messages, s3
from tests.trainer import models as small

STEPS, EVERY = 40, 10
_PHASE = trainings_pb2.Training
SETTINGS = TrainerSettings(device="cpu", threads=1)


@pytest.fixture
def remote(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> storages.Storage:
    monkeypatch.setenv("POLYTOK_CACHE", str(tmp_path / "cache"))
    return storages.Storage(f"s3://{bucket}/polytok")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = small.extract(small.save(tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("made"))
    (folder / "polytok.json").write_text(json.dumps({"parameters": {"context_size": 8}}))
    return folder


class Attempt:
    """A task as the worker's child runs it, and all that it tells."""

    def __init__(self, epoch: int, point: bytes = b"", stop_at: int = 0) -> None:
        self.points: list[tasks_pb2.ResumePoint] = []
        self.reports: list[tasks_pb2.TrainingReport] = []
        self._stop_at = stop_at
        self.context = task_process_main.TaskContext(str(uuid.UUID(int=7 << 96)), epoch, point, self._told)

    def _told(self, event: messages_pb2.TaskEvent) -> None:
        if event.HasField("report"):
            report = tasks_pb2.TrainingReport()
            event.report.Unpack(report)
            self.reports.append(report)
        if event.resume_point:
            self.points.append(tasks_pb2.ResumePoint.FromString(event.resume_point))
            # Its owner has it now.
            self.context.saved_resume_point = event.resume_point
            if self._stop_at and self.points[-1].step >= self._stop_at:
                self.context.pause_requested.set()


def task(storage: storages.Storage, extracted: pathlib.Path) -> tasks_pb2.RunTrainingTask:
    """Return a training on an extraction that lies in the storage."""
    for path in extracted.iterdir():
        storage.write_bytes(f"extractions/e/{path.name}", path.read_bytes())
    manifest = (extracted / "polytok.json").read_bytes()
    sae = saes_pb2.Sae(name="small", hook=small.HOOK, d_sae=32, topk=saes_pb2.TopK(k=4))
    return tasks_pb2.RunTrainingTask(
        training="trainings/first",
        key="trainings/uid",
        saes=[sae],
        parameters=trainings_pb2.TrainingParameters(
            total_samples=32 * STEPS,
            batch_size=32,
            buffer_samples=128,
            log_every=5,
            checkpoint_every=EVERY,
            evaluation_sequences=4,
        ),
        lineage=trainings_pb2.TrainingLineage(
            extraction="extractions/e", extraction_digest=hashlib.sha256(manifest).hexdigest()
        ),
        source_key="extractions/e",
    )


def record(storage: storages.Storage, result: tasks_pb2.RunTrainingResult) -> trainings_pb2.Training:
    """Return what the trainer answers with once it is READY."""
    made = trainings_pb2.Training(
        name="trainings/first",
        state=trainings_pb2.Training.STATE_READY,
        path=storage.uri(result.key),
        manifest_digest=result.manifest_digest,
        results=result.results,
    )
    for each in made.results:
        each.path = f"{made.path}/{each.name}"
    return made


def run(task: tasks_pb2.RunTrainingTask, storage: storages.Storage, attempt: Attempt) -> Any:
    payload = any_pb2.Any()
    payload.Pack(task)
    with torch.random.fork_rng(devices=[]):
        return train_task.run(task, storage, SETTINGS, attempt.context)


def test_training_in_a_bucket(remote: storages.Storage, extracted: pathlib.Path, tmp_path: pathlib.Path) -> None:
    wanted = task(remote, extracted)
    first = Attempt(1, stop_at=2 * EVERY)
    with pytest.raises(task_process_main.TaskPaused):
        run(wanted, remote, first)
    point = first.points[-1]
    assert 2 * EVERY <= point.step < STEPS
    assert any(key.startswith(f"{point.key}/") for key in remote.list("trainings/uid"))
    # Those that were reported as gone are gone from the bucket too.
    kept = {key.split("/")[4] for key in remote.list("trainings/uid") if "/checkpoints/" in key}
    reported = [report.kept_steps for report in first.reports if report.HasField("checkpoint")][-1]
    assert kept == {f"step-{step:012d}" for step in reported}

    second = Attempt(2, point.SerializeToString())
    result = run(wanted, remote, second)
    assert second.reports[0].from_step == point.step
    assert all(row.step > point.step for report in second.reports for row in report.metrics)
    assert [report.phase for report in first.reports if report.phase] == [_PHASE.PHASE_FILLING, _PHASE.PHASE_TRAINING]
    later = [_PHASE.PHASE_TRAINING, _PHASE.PHASE_EVALUATING, _PHASE.PHASE_EXPORTING]
    assert [report.phase for report in second.reports if report.phase] == later
    for file in result.files:
        remote.verify(f"{result.key}/{file.name}", file.sha256)

    # Bit for bit what a training that nobody stopped gives on a disk.
    local = storages.Storage(str(tmp_path / "storage"))
    undisturbed = run(task(local, extracted), local, Attempt(1))
    ready = record(remote, result)
    folder = pathlib.Path(trainings.sae_path(ready))
    theirs = load_file(trainings.sae_path(record(local, undisturbed)) + "/sae_weights.safetensors")
    ours = load_file(folder / "sae_weights.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)

    # SAELens opens the copy, which is made once.
    opened = architectures.import_sae_lens().SAE.load_from_disk(str(folder))
    assert opened.cfg.d_sae == 32
    remote.delete_tree("trainings/uid")
    assert trainings.sae_path(ready, "small") == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["polytok.json", *hub_export.FILES])
    (exported,) = hub_export.list_exports(ready)
    assert set(hub_export.plan_layout([exported], "me/saes").files) == {
        f"{small.HOOK}/{name}" for name in hub_export.FILES
    }


def test_missing_checkpoint(remote: storages.Storage, extracted: pathlib.Path) -> None:
    point = tasks_pb2.ResumePoint(step=EVERY, key=f"trainings/uid/gone/checkpoints/step-{EVERY:012d}")
    with pytest.raises(errors.DataLoss) as caught:
        run(task(remote, extracted), remote, Attempt(2, point.SerializeToString()))
    assert caught.value.metadata == {"key": point.key}
    messages.check_names(caught.value.message, f"step {EVERY}", point.key, "--from-start")


def test_damaged_export(remote: storages.Storage, extracted: pathlib.Path, bucket: str, s3_server: s3.Server) -> None:
    result = run(task(remote, extracted), remote, Attempt(1))
    ready = record(remote, result)
    name = next(file.name for file in result.files if file.name.endswith("sae_weights.safetensors"))
    s3_server.client().put_object(Bucket=bucket, Key=f"polytok/{result.key}/{name}", Body=b"other")
    with pytest.raises(errors.DataLoss) as caught:
        trainings.sae_path(ready)
    messages.check_names(caught.value.message, "small/sae_weights.safetensors", "trainings/first")
    s3_server.client().delete_object(Bucket=bucket, Key=f"polytok/{result.key}/polytok.json")
    with pytest.raises(errors.Aborted) as aborted:
        trainings.sae_path(ready)
    messages.check_names(aborted.value.message, "polytok.json", "trainings/first")
