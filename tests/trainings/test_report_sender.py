"""What an attempt at a training tells first, when it goes on from another attempt's checkpoint."""

import pathlib

from polytok.jobs.v1 import messages_pb2
from polytok.trainer.v1 import tasks_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime.storage import Storage
from services.trainer.sae.reports import Progress
from services.trainer.worker import workspace
from services.trainer.worker.report_sender import ReportSender

FIRST, SECOND = "trainings/t/first", "trainings/t/second"
STEP = 100


def test_an_attempt_resumes_from_its_own_copy(storage: Storage) -> None:
    """The folder of the attempt before is swept: a third attempt must not look there, though this one wrote nothing."""
    name = f"checkpoints/step-{STEP:012d}"
    storage.write_bytes(f"{FIRST}/{name}/state", b"x")
    point = tasks_pb2.ResumePoint(step=STEP, key=f"{FIRST}/{name}", size_bytes=1)
    sent: list[messages_pb2.TaskEvent] = []
    context = TaskContext("task", 2, point.SerializeToString(), sent.append)
    with workspace.open_workspace(storage, SECOND) as work:
        work.restore(point)
        sender = ReportSender(context, work, STEP, keep=2)
        for step in (STEP, STEP + 1):
            sender.progress(
                Progress(
                    step=step,
                    total_steps=1000,
                    samples=step,
                    total_samples=1000,
                    samples_per_second=0,
                    phase="training",
                    checkpoint_step=STEP,
                )
            )
    begun = tasks_pb2.TrainingReport()
    assert sent[0].report.Unpack(begun)
    assert (begun.begins, begun.checkpoint.key) == (True, f"{SECOND}/{name}")
    points = [event.resume_point for event in sent if event.resume_point]
    assert [tasks_pb2.ResumePoint.FromString(each).key for each in points] == [f"{SECOND}/{name}"]
    storage.delete_tree(FIRST)
    with workspace.open_workspace(storage, "trainings/t/third") as work:
        work.restore(tasks_pb2.ResumePoint.FromString(points[0]))
        assert pathlib.Path(work.folder, name, "state").read_bytes() == b"x"
