"""The process behind TokenizerService, `python -m services.tokenizer.answers`: loads tokenizers and encodes texts.

It is not the one that does the tasks, which is busy for minutes where somebody waits for a text's tokens.
"""

import os
import sys

from google.protobuf import any_pb2

from polytok import errors
from polytok.tokenizer.v1 import answers_pb2, tasks_pb2
from services.runtime.jobs import child
from services.tokenizer.settings import TokenizerSettings

_CACHED = 8


def _encode_task(payload: any_pb2.Any) -> answers_pb2.EncodeTask:
    task = answers_pb2.EncodeTask()
    if not payload.Unpack(task):
        raise errors.Internal(f"{payload.type_url!r} is no EncodeTask.", retryable=False)
    return task


def _reference(payload: any_pb2.Any) -> tasks_pb2.TokenizerReference:
    reference = tasks_pb2.TokenizerReference()
    if not payload.Unpack(reference):
        raise errors.Internal(f"{payload.type_url!r} is no TokenizerReference.", retryable=False)
    return reference


def main() -> None:
    """Answers until the parent ends."""
    settings = TokenizerSettings()
    settings.apply()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # As in services.tokenizer.child: no tokenizer needs it, and it is slow to import.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from services.tokenizer import describing, loading  # noqa: PLC0415

    # People compare more tokenizers than a job uses.
    tokenizers = loading.Tokenizers(max(settings.cached, _CACHED))
    child.serve(
        {
            "inspect": lambda payload, _: describing.inspect(_reference(payload), tokenizers),
            "encode": lambda payload, _: describing.encode(_encode_task(payload), tokenizers),
        },
        warm=loading.warm,
    )


if __name__ == "__main__":
    main()
