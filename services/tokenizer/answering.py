"""The worker's side of the process behind TokenizerService."""

from collections.abc import Sequence

from services.jobs import subprocess_client

lost = subprocess_client.lost


class Answering(subprocess_client.Answering):
    """The process that inspects tokenizers and encodes texts."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        service: str,
        memory_bytes: int = 0,
        idle_seconds: float = subprocess_client.IDLE_SECONDS,
    ) -> None:
        super().__init__(
            command,
            service=service,
            about="The tokenizer",
            memory_bytes=memory_bytes,
            idle_seconds=idle_seconds,
        )
