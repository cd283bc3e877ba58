"""Encode texts and verify files for TokenizerService: `python -m services.tokenizer.server.encode_process`.

It is separate from the task process, which may be busy for minutes while a user waits for the tokens of a text.
"""

import os
import sys
from typing import TYPE_CHECKING, TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import Message

from polytok import errors
from polytok.tokenizer.v1 import answers_pb2, tasks_pb2, tokenizer_pb2
from services.jobs import task_process_main
from services.runtime.settings import StorageSettings
from services.runtime.storage import Storage
from services.tokenizer.settings import TokenizerSettings

if TYPE_CHECKING:
    from services.tokenizer.models import loader

_CACHED = 8


_Question = TypeVar("_Question", bound=Message)


def _unpacked(payload: any_pb2.Any, question: _Question) -> _Question:
    if not payload.Unpack(question):
        raise errors.Internal(f"{payload.type_url!r} is not a {question.DESCRIPTOR.full_name}.", retryable=False)
    return question


def _verify(
    task: answers_pb2.VerifyTask, tokenizers: "loader.TokenizerCache", context: task_process_main.TaskContext
) -> tokenizer_pb2.VerifyResult:
    # Imported here: encoding a text need not wait for it.
    from services.tokenizer.checks import verification  # noqa: PLC0415

    return verification.verify(task, Storage(StorageSettings().root), tokenizers, context)


def main() -> None:
    """Serve requests until the parent process exits."""
    settings = TokenizerSettings()
    settings.apply()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # As in services.tokenizer.worker.child: no tokenizer needs it, and it is slow to import.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from services.tokenizer.models import description, loader  # noqa: PLC0415

    # Users compare more tokenizers than a job uses.
    tokenizers = loader.TokenizerCache(max(settings.cached, _CACHED))
    task_process_main.serve(
        {
            "inspect": lambda payload, _: description.inspect(
                _unpacked(payload, tasks_pb2.TokenizerReference()), tokenizers
            ),
            "encode": lambda payload, _: description.encode(_unpacked(payload, answers_pb2.EncodeTask()), tokenizers),
            "verify": lambda payload, context: _verify(
                _unpacked(payload, answers_pb2.VerifyTask()), tokenizers, context
            ),
        },
        warm=loader.warm,
    )


if __name__ == "__main__":
    main()
