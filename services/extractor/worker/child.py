"""The worker's task process, `python -m services.extractor.worker.child`: loads models and runs the tasks."""

import os
from collections.abc import Callable
from typing import TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok import errors
from polytok.extractor.v1 import tasks_pb2
from services.jobs import task_process_main
from services.runtime import malloc_tuning
from services.runtime.settings import StorageSettings
from services.runtime.storage import factory

_Payload = TypeVar("_Payload", bound=Message)


def _unpacked(payload: any_pb2.Any, kind: Callable[[], _Payload]) -> _Payload:
    message = kind()
    if not payload.Unpack(message):
        raise errors.InvalidArgument(
            f"The task's payload is {payload.type_url!r}, expected {message.DESCRIPTOR.full_name!r}: "
            "extractor and worker run different versions. Upgrade the older one.",
            reason="MESSAGE_INVALID",
        )
    return message


def main() -> None:
    """Run tasks until the parent process exits."""
    malloc_tuning.tune_malloc()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Imported after the environment is set, because the libraries read it once.
    from services.activations import tokenizations  # noqa: PLC0415
    from services.extractor.worker import model_cache  # noqa: PLC0415
    from services.extractor.worker.tasks import estimate_task, plan_task, publish_task, range_task  # noqa: PLC0415

    storage = factory.open_storage(StorageSettings())
    reader = tokenizations.TokenizationReader(storage)
    loaded = model_cache.ModelCache()
    task_process_main.serve(
        {
            "extract.plan": lambda payload, _: plan_task.plan(
                _unpacked(payload, tasks_pb2.PlanExtractionTask), storage, reader, loaded
            ),
            "extract.range": lambda payload, context: range_task.extract(
                _unpacked(payload, tasks_pb2.ExtractRangeTask), storage, reader, loaded, context
            ),
            "extract.publish": lambda payload, context: publish_task.publish(
                _unpacked(payload, tasks_pb2.PublishExtractionTask), storage, context
            ),
            "extract.estimate": lambda payload, context: estimate_task.estimate(
                _unpacked(payload, tasks_pb2.EstimateExtractionTask), storage, reader, loaded, context
            ),
        },
        warm=lambda: None,
    )


if __name__ == "__main__":
    main()
