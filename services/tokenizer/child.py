"""The worker's child process, `python -m services.tokenizer.child`: loads tokenizers and does the tasks."""

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
from services.runtime.storage import Storage, opened
from services.tokenizer.settings import TokenizerSettings

_THREADS_A_HEAP = 4

_Payload = TypeVar("_Payload", bound=Message)


def _unpacked(payload: any_pb2.Any, kind: Callable[[], _Payload]) -> _Payload:
    message = kind()
    if not payload.Unpack(message):
        raise errors.InvalidArgument(
            f"The task's payload is {payload.type_url!r}, not {message.DESCRIPTOR.full_name!r}: "
            "catalog and worker are of different versions; upgrade the older one.",
            reason="MESSAGE_INVALID",
        )
    return message


def functions(storage: Storage, settings: TokenizerSettings) -> Mapping[str, task_process_main.TaskFunction]:
    """Return what the process serves."""
    # Imported after the environment is set, which the libraries read once.
    from services.tokenizer.checks import repairing  # noqa: PLC0415
    from services.tokenizer.engines import choosing  # noqa: PLC0415
    from services.tokenizer.models import inspection, loading  # noqa: PLC0415
    from services.tokenizer.stages import arranging, assembling, duplicates, preparing, publishing, shards  # noqa: PLC0415

    tokenizers = loading.Tokenizers(settings.cached)
    chooser = choosing.Chooser(
        settings.engine,
        parallel=settings.usable_threads > 1,
        kept=settings.cached,
        folder=settings.proofs_folder,
        patience=settings.patience_bytes,
    )
    return {
        "model.inspect": lambda payload, _: inspection.inspect(
            _unpacked(payload, tasks_pb2.InspectModelTask), tokenizers
        ),
        "tokenize.shard": lambda payload, context: shards.tokenize(
            _unpacked(payload, tasks_pb2.TokenizeShardTask), storage, tokenizers, chooser, context
        ),
        "tokenize.encode": lambda payload, context: preparing.encode(
            _unpacked(payload, tasks_pb2.TokenizeShardTask), storage, tokenizers, chooser, context
        ),
        "tokenize.arrange": lambda payload, context: arranging.arrange(
            _unpacked(payload, stages_pb2.ArrangeTask), storage, context
        ),
        "tokenize.duplicates": lambda payload, context: duplicates.find(
            _unpacked(payload, stages_pb2.ArrangedTask), storage, context
        ),
        "tokenize.measure": lambda payload, context: assembling.measure(
            _unpacked(payload, stages_pb2.ArrangedTask), storage, tokenizers, context
        ),
        "tokenize.assemble": lambda payload, context: assembling.assemble(
            _unpacked(payload, stages_pb2.ArrangedTask), storage, tokenizers, context
        ),
        "tokenize.publish": lambda payload, context: publishing.publish(
            _unpacked(payload, tasks_pb2.PublishTokenizationTask), storage, tokenizers, context
        ),
        "repair.check": lambda payload, context: repairing.check(
            _unpacked(payload, repairs_pb2.CheckFilesTask), storage, context
        ),
        "repair.mend": lambda payload, context: repairing.mend(
            _unpacked(payload, repairs_pb2.MendTask), storage, context
        ),
    }


def main() -> None:
    """Run tasks until the parent ends."""
    settings = TokenizerSettings()
    # A piece's texts, ids and rows are of the size of the last one's.
    malloc_tuning.keep_freed(heaps=max(1, settings.usable_threads // _THREADS_A_HEAP))
    settings.apply()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # transformers imports torch where it is installed: a second of start and 190 MB that no tokenizer needs.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from services.tokenizer.models import loading  # noqa: PLC0415  as in `functions`

    task_process_main.serve(functions(opened(StorageSettings()), settings), warm=loading.warm)


if __name__ == "__main__":
    main()
