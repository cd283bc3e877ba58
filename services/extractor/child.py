"""The worker's child process, `python -m services.extractor.child`: loads models and does the tasks."""

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
            f"The task's payload is {payload.type_url!r}, not {message.DESCRIPTOR.full_name!r}: "
            "extractor and worker are of different versions; upgrade the older one.",
            reason="MESSAGE_INVALID",
        )
    return message


def main() -> None:
    """Run tasks until the parent ends."""
    malloc_tuning.keep_freed()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Imported after the environment is set, which the libraries read once.
    from services.activations import tokenizations  # noqa: PLC0415
    from services.extractor import estimating, loading, planning, publishing, ranging  # noqa: PLC0415

    storage = factory.opened(StorageSettings())
    reader = tokenizations.Reader(storage)
    loaded = loading.Models()
    task_process_main.serve(
        {
            "extract.plan": lambda payload, _: planning.plan(
                _unpacked(payload, tasks_pb2.PlanExtractionTask), storage, reader, loaded
            ),
            "extract.range": lambda payload, context: ranging.extract(
                _unpacked(payload, tasks_pb2.ExtractRangeTask), storage, reader, loaded, context
            ),
            "extract.publish": lambda payload, context: publishing.publish(
                _unpacked(payload, tasks_pb2.PublishExtractionTask), storage, context
            ),
            "extract.estimate": lambda payload, context: estimating.estimate(
                _unpacked(payload, tasks_pb2.EstimateExtractionTask), storage, reader, loaded, context
            ),
        },
        warm=lambda: None,
    )


if __name__ == "__main__":
    main()
