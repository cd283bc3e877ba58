"""Between two attempts at a training, and between an extraction and a training on it, the model's weights stay."""

import pathlib
import uuid

import pytest
import torch

from polytok import errors
from polytok.jobs.v1 import messages_pb2
from polytok.trainer.v1 import saes_pb2, tasks_pb2, trainings_pb2
from services.jobs import task_process_main
from services.trainer.worker import activation_sources, train_task
from services.trainer.worker.worker_settings import TrainerSettings
from tests.activations import tiny_models
from tests.extractor import worker_harness
from tests.extractor.worker_harness import WorkerHarness
from tests.support import messages

HOOK = "blocks.1.hook_resid_post"
STEPS, EVERY = 8, 2


@pytest.fixture
def place(tmp_path: pathlib.Path) -> WorkerHarness:
    return worker_harness.create_worker_harness(tmp_path)


def change(place: WorkerHarness) -> None:
    """Put other weights into the model's folder."""
    tiny_models.save("gpt2", place.model, initializer_range=0.5)


def task(place: WorkerHarness, **lineage: str) -> tasks_pb2.RunTrainingTask:
    return tasks_pb2.RunTrainingTask(
        training="trainings/one",
        key="trainings/uid",
        saes=[saes_pb2.Sae(name="small", hook=HOOK, d_sae=16, topk=saes_pb2.TopK(k=2))],
        parameters=trainings_pb2.TrainingParameters(
            total_samples=16 * STEPS, batch_size=16, buffer_samples=64, checkpoint_every=EVERY, evaluation_sequences=4
        ),
        lineage=trainings_pb2.TrainingLineage(
            tokenization=worker_harness.NAME,
            tokenization_digest=place.digest,
            model_repo_id=str(place.model),
            **lineage,
        ),
        live=trainings_pb2.LiveSource(batch_tokens=64),
        tokenization_key=worker_harness.KEY,
    )


class Attempt:
    """An attempt at a training; one that is to stop does so at its first checkpoint."""

    def __init__(self, point: bytes = b"", *, stop: bool = False) -> None:
        self.point = point
        self.reports: list[tasks_pb2.TrainingReport] = []
        self._stop = stop
        self._context = task_process_main.TaskContext(str(uuid.UUID(int=7 << 96)), 2 if point else 1, point, self._told)

    def _told(self, event: messages_pb2.TaskEvent) -> None:
        if event.HasField("report"):
            self.reports.append(tasks_pb2.TrainingReport())
            event.report.Unpack(self.reports[-1])
        if event.resume_point:
            self.point = self._context.saved_resume_point = event.resume_point
            if self._stop:
                self._context.pause_requested.set()

    def run(self, place: WorkerHarness, task: tasks_pb2.RunTrainingTask) -> tasks_pb2.RunTrainingResult:
        with torch.random.fork_rng(devices=[]):
            return train_task.run(task, place.storage, TrainerSettings(device="cpu", threads=1), self._context)


def test_resuming_with_other_weights(place: WorkerHarness) -> None:
    first = Attempt(stop=True)
    with pytest.raises(task_process_main.TaskPaused):
        first.run(place, task(place))
    expected = first.reports[0].weights_fingerprint
    assert expected
    assert tasks_pb2.ResumePoint.FromString(first.point).weights_fingerprint == expected
    kept = {path.name: path.read_bytes() for path in place.model.iterdir()}

    change(place)
    with pytest.raises(errors.FailedPrecondition) as caught:
        Attempt(first.point).run(place, task(place))
    assert (caught.value.reason, caught.value.retryable) == ("MODEL_INVALID", False)
    assert caught.value.metadata["expected"] == expected != caught.value.metadata["found"]
    messages.check_names(caught.value.message, "trainings/one", "--from-start")
    # From the start nothing is left that the old ones made.
    again = Attempt(stop=True)
    with pytest.raises(task_process_main.TaskPaused):
        again.run(place, task(place, weights_fingerprint=expected))
    assert again.reports[0].weights_fingerprint not in {"", expected}

    for name, content in kept.items():
        (place.model / name).write_bytes(content)
    wanted = task(place)
    result = Attempt(first.point).run(place, wanted)
    assert f'"weights_fingerprint": "{expected}"' in place.storage.read_bytes(f"{result.key}/polytok.json").decode()


def test_evaluating_an_extraction_with_other_weights(place: WorkerHarness) -> None:
    order = place.order()
    plan = place.plan(order)
    order.weights_fingerprint = plan.weights_fingerprint
    published = place.publish(order, place.extract(order, plan))
    wanted = task(
        place,
        extraction=order.name,
        extraction_digest=published.manifest_digest,
        weights_fingerprint=plan.weights_fingerprint,
    )
    wanted.source_key = order.extraction_key

    def opened() -> object:
        source = activation_sources.open_source(wanted, place.storage, "cpu", pathlib.Path("unused"))
        return source.open((HOOK,), seed=0, held_out=4)

    opened()
    change(place)
    with pytest.raises(errors.FailedPrecondition) as caught:
        opened()
    assert caught.value.reason == "MODEL_INVALID"
    assert caught.value.metadata["expected"] == plan.weights_fingerprint != caught.value.metadata["found"]
    messages.check_names(caught.value.message, "extractions/mine")
