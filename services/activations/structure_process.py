"""The process that tells servers what models are made of, `python -m services.activations.structure_process`.

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
        # As where a server runs that has no worker beside it.
        raise errors.FailedPrecondition(
            f"{error.name} is not installed beside this server: hooks are checked by the workers alone. "
            "Install polytok[activations] to have them checked at once.",
            reason="MODEL_INVALID",
        ) from error
    question = structures_pb2.ModelStructureRequest()
    if not payload.Unpack(question):
        raise errors.Internal(f"{payload.type_url!r} is no ModelStructureRequest.", retryable=False)
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
    """Answer until the parent ends."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Who creates something waits: a hub that is slow is not waited for.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", _HUB_SECONDS)
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", _HUB_SECONDS)
    task_process_main.serve({KIND: lambda payload, _: _structure(payload)}, warm=lambda: None)


if __name__ == "__main__":
    main()
