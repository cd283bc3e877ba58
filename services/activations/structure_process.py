"""The process that reads model structures for servers, `python -m services.activations.structure_process`.

It reads config.json, and nothing of the weights; the modules are built on torch's meta device, without memory.
"""

import os

from google.protobuf import any_pb2

from polytok import errors
from polytok.extractor.v1 import structures_pb2
from services.jobs import task_process_main

KIND = "structure"
_HUB_SECONDS = "5"


def _structure(payload: any_pb2.Any) -> structures_pb2.ModelStructure:
    try:
        from services.activations import hooks, models  # noqa: PLC0415
        from services.runtime import hub  # noqa: PLC0415
    except ImportError as error:
        # For example on a server without a worker beside it.
        raise errors.FailedPrecondition(
            f"{error.name} is not installed beside this server, so only the workers check hooks. Install "
            "polytok[activations] to have them checked at once.",
            reason="MODEL_INVALID",
        ) from error
    question = structures_pb2.ModelStructureRequest()
    if not payload.Unpack(question):
        raise errors.Internal(f"{payload.type_url!r} is not a ModelStructureRequest.", retryable=False)
    folder = hub.folder(question.repo_id, question.revision, files=("config.json",), reason="MODEL_INVALID")
    found = hooks.describe_structure(models.outline(folder))
    return structures_pb2.ModelStructure(
        kind=found.kind,
        n_layers=found.n_layers,
        blocks=found.blocks,
        points=sorted(found.points),
        sparse=sorted(found.sparse),
        modules=sorted(found.modules),
    )


def main() -> None:
    """Serve requests until the parent process exits."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # A user waits for the response: do not wait for a slow hub.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", _HUB_SECONDS)
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", _HUB_SECONDS)
    task_process_main.serve({KIND: lambda payload, _: _structure(payload)}, warm=lambda: None)


if __name__ == "__main__":
    main()
