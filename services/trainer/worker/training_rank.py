"""One of several processes of a training: `-m services.trainer.worker.training_rank JOB.json`, started by `launch`."""

import base64
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from polytok.trainer.v1 import tasks_pb2
from services.runtime import malloc_tuning
from services.runtime.settings import StorageSettings
from services.runtime.storage import factory
from services.trainer.sae import configs
from services.trainer.sae.data.dataset import ActivationDataset
from services.trainer.sae.distributed import rank_main


def describe_source(task: tasks_pb2.RunTrainingTask, scratch: pathlib.Path) -> dict[str, Any]:
    """Return what a process is told of the source; `scratch` has what came from a remote storage."""
    return {"task": base64.b64encode(task.SerializeToString()).decode(), "scratch": str(scratch)}


def opener(job: rank_main.RankJob) -> Callable[[str], ActivationDataset]:
    """Open the source of a job, on a device."""
    from services.trainer.worker import activation_sources  # noqa: PLC0415  its libraries take seconds

    task = tasks_pb2.RunTrainingTask.FromString(base64.b64decode(job.read["task"]))
    whole = configs.TrainingPlan.from_dict(job.plan)

    def open_data(device: str) -> ActivationDataset:
        storage = factory.open_storage(StorageSettings())
        source = activation_sources.open_source(task, storage, device, pathlib.Path(job.read["scratch"]), fetched=True)
        # All hooks, whichever this process trains on: which tokens go through the model together depends on them.
        return source.open(whole.hooks, seed=whole.seed, held_out=whole.evaluation_sequences)

    return open_data


if __name__ == "__main__":
    malloc_tuning.tune_malloc()
    sys.exit(rank_main.main(opener))
