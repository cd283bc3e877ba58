"""The worker's task process, `python -m services.trainer.worker.child`: trains."""

import os

from google.protobuf import any_pb2

from polytok import errors
from polytok.trainer.v1 import tasks_pb2
from services.jobs import task_process_main
from services.runtime import malloc_tuning
from services.runtime.settings import StorageSettings
from services.runtime.storage import factory
from services.trainer.worker.worker_settings import TrainerSettings


def main() -> None:
    """Run tasks until the parent process exits."""
    # The largest tensors of a step and a model are allocated and freed each time: a sixth of the processor time.
    malloc_tuning.tune_malloc()
    settings = TrainerSettings()
    # The libraries read these once, when they are imported.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.usable_threads))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    storage = factory.open_storage(StorageSettings())

    def warm() -> None:
        from services.trainer.worker import train_task  # noqa: F401, PLC0415  imports torch

    def run(payload: any_pb2.Any, context: task_process_main.TaskContext) -> tasks_pb2.RunTrainingResult:
        from services.trainer.worker import train_task  # noqa: PLC0415

        return train_task.run(_unpacked(payload), storage, settings, context)

    task_process_main.serve({"train.run": run}, warm=warm)


def _unpacked(payload: any_pb2.Any) -> tasks_pb2.RunTrainingTask:
    task = tasks_pb2.RunTrainingTask()
    if not payload.Unpack(task):
        raise errors.InvalidArgument(
            f"The task's payload is {payload.type_url!r}, expected {task.DESCRIPTOR.full_name!r}: trainer and "
            "worker run different versions. Upgrade the older one.",
            reason="MESSAGE_INVALID",
        )
    return task


if __name__ == "__main__":
    main()
