"""The worker's task process, `python -m services.tokenizer.worker.child`: loads tokenizers and runs the tasks."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok import errors
from polytok.tokenizer.v1 import repairs_pb2, stages_pb2, tasks_pb2
from services.jobs import task_process_main
from services.runtime import malloc_tuning
from services.runtime.settings import StorageSettings
from services.runtime.storage import Storage, open_storage
from services.tokenizer.settings import TokenizerSettings

_THREADS_A_HEAP = 4

_Payload = TypeVar("_Payload", bound=Message)


def _unpacked(payload: any_pb2.Any, kind: Callable[[], _Payload]) -> _Payload:
    message = kind()
    if not payload.Unpack(message):
        raise errors.InvalidArgument(
            f"The task's payload is {payload.type_url!r}, expected {message.DESCRIPTOR.full_name!r}: catalog "
            "and worker run different versions. Upgrade the older one.",
            reason="MESSAGE_INVALID",
        )
    return message


def functions(storage: Storage, settings: TokenizerSettings) -> Mapping[str, task_process_main.TaskFunction]:
    """Return the task functions of the process."""
    # Imported after the environment is set, because the libraries read it once.
    from services.tokenizer.engines import selection  # noqa: PLC0415
    from services.tokenizer.models import loader  # noqa: PLC0415
    from services.tokenizer.worker.tasks import (  # noqa: PLC0415
        arrange_task,
        assemble_task,
        duplicates_task,
        encode_task,
        inspect_task,
        publish_task,
        repair_task,
        shard_task,
    )

    tokenizers = loader.TokenizerCache(settings.cached)
    selector = selection.EngineSelector(
        settings.engine,
        parallel=settings.usable_threads > 1,
        kept=settings.cached,
        folder=settings.proofs_folder,
        patience=settings.patience_bytes,
    )
    return {
        "model.inspect": lambda payload, _: inspect_task.inspect(
            _unpacked(payload, tasks_pb2.InspectModelTask), tokenizers
        ),
        "tokenize.shard": lambda payload, context: shard_task.tokenize(
            _unpacked(payload, tasks_pb2.TokenizeShardTask), storage, tokenizers, selector, context
        ),
        "tokenize.encode": lambda payload, context: encode_task.encode(
            _unpacked(payload, tasks_pb2.TokenizeShardTask), storage, tokenizers, selector, context
        ),
        "tokenize.arrange": lambda payload, context: arrange_task.arrange(
            _unpacked(payload, stages_pb2.ArrangeTask), storage, context
        ),
        "tokenize.duplicates": lambda payload, context: duplicates_task.find(
            _unpacked(payload, stages_pb2.ArrangedTask), storage, context
        ),
        "tokenize.measure": lambda payload, context: assemble_task.measure(
            _unpacked(payload, stages_pb2.ArrangedTask), storage, tokenizers, context
        ),
        "tokenize.assemble": lambda payload, context: assemble_task.assemble(
            _unpacked(payload, stages_pb2.ArrangedTask), storage, tokenizers, context
        ),
        "tokenize.publish": lambda payload, context: publish_task.publish(
            _unpacked(payload, tasks_pb2.PublishTokenizationTask), storage, tokenizers, context
        ),
        "repair.check": lambda payload, context: repair_task.check_files(
            _unpacked(payload, repairs_pb2.CheckFilesTask), storage, context
        ),
        "repair.restore": lambda payload, context: repair_task.restore(
            _unpacked(payload, repairs_pb2.RestoreFilesTask), storage, context
        ),
    }


def main() -> None:
    """Run tasks until the parent process exits."""
    settings = TokenizerSettings()
    # The texts, ids and rows of a piece are as large as those of the last one.
    malloc_tuning.tune_malloc(heaps=max(1, settings.usable_threads // _THREADS_A_HEAP))
    settings.apply()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # transformers imports torch if it is installed: a second of start and 190 MB that no tokenizer needs.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from services.tokenizer.models import loader  # noqa: PLC0415  as in `functions`

    task_process_main.serve(functions(open_storage(StorageSettings()), settings), warm=loader.warm)


if __name__ == "__main__":
    main()
