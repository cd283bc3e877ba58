"""The worker's side of the process behind TokenizerService."""

from collections.abc import Sequence

from polytok import errors
from polytok.jobs.v1 import leases_pb2
from services.runtime.jobs import answering

# What a tokenizer's fault is to somebody who named a model.
_CLASSES: answering.Classes = {
    "TOKENIZER_INVALID": errors.FailedPrecondition,
    "HUB_UNAVAILABLE": errors.Unavailable,
    "STORAGE_FAILED": errors.Unavailable,
    "DISK_FULL": errors.ResourceExhausted,
    "WORKER_LOST": errors.ResourceExhausted,
    "PATH_OUTSIDE_ROOT": errors.FailedPrecondition,
    "WRONG_STATE": errors.FailedPrecondition,
}

lost = answering.lost


class Answering(answering.Answering):
    """The process that inspects tokenizers and encodes texts."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        service: str,
        memory_bytes: int = 0,
        idle_seconds: float = answering.IDLE_SECONDS,
    ) -> None:
        super().__init__(
            command,
            service=service,
            about="The tokenizer",
            classes=_CLASSES,
            memory_bytes=memory_bytes,
            idle_seconds=idle_seconds,
        )


def error(told: leases_pb2.TaskError) -> errors.PolytokError:
    """The error that such a process had, as one of the call that asked it."""
    return answering.error(told, _CLASSES)
