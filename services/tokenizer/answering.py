"""The worker's side of the process behind TokenizerService."""

from collections.abc import Sequence

from services.runtime.jobs import answering

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
            memory_bytes=memory_bytes,
            idle_seconds=idle_seconds,
        )
