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
    """Return the description of the source for a rank; `scratch` holds the files copied from a remote storage."""
    return {"task": base64.b64encode(task.SerializeToString()).decode(), "scratch": str(scratch)}


def opener(job: rank_main.RankJob) -> Callable[[str], ActivationDataset]:
    """Return a function that opens the source of a job on a device."""
    from services.trainer.worker import activation_sources  # noqa: PLC0415  its libraries take seconds

    task = tasks_pb2.RunTrainingTask.FromString(base64.b64decode(job.read["task"]))
    whole = configs.TrainingPlan.from_dict(job.plan)

    def open_data(device: str) -> ActivationDataset:
        storage = factory.open_storage(StorageSettings())
        source = activation_sources.open_source(task, storage, device, pathlib.Path(job.read["scratch"]), fetched=True)
        # All hooks, even those that this process does not train on: they decide which tokens share a forward pass.
        return source.open(whole.hooks, seed=whole.seed, held_out=whole.evaluation_sequences)

    return open_data


if __name__ == "__main__":
    malloc_tuning.tune_malloc()
    sys.exit(rank_main.main(opener))
