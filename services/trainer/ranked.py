"""One of the processes that torchrun starts for a training: `-m services.trainer.ranked JOB.json`.

The first process writes what happens to the job's named pipe, a line of JSON an event; see `launching`.
"""

import dataclasses
import json
import os
import pathlib
import sys
from typing import Any, TextIO

from polytok import errors
from services.runtime.jobs import child
from services.trainer import export, plan, reports
from services.trainer.inputs import Input

END = b"end\n"
"""Stands behind the last event."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What all processes of a training are given."""

    plan: dict[str, Any]
    folder: str
    read: dict[str, Any]
    origins: dict[str, dict[str, Any]]
    resume: bool
    keep: int
    stop: str
    """A file whose appearance stops the training."""
    events: str
    """A named pipe."""


class _FileStop:
    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def is_set(self) -> bool:
        return self._path.exists()


class _Events:
    """Tells what happens; only the first process does."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def send(self, kind: str, content: Any) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps({"kind": kind, "content": content}) + "\n")
            self._stream.flush()


def row(content: dict[str, Any]) -> reports.Row:
    """Reads a row as it was told."""
    return reports.EvaluationRow(**content) if "figures" in content else reports.MetricsRow(**content)


def result(content: dict[str, Any]) -> reports.Result:
    """Reads a result as it was told."""
    exports = {name: pathlib.Path(folder) for name, folder in content["exports"].items()}
    evaluations = [reports.EvaluationRow(**each) for each in content["evaluations"]]
    return reports.Result(**content | {"exports": exports, "evaluations": evaluations})


def error(content: dict[str, Any]) -> errors.PolytokError:
    """Reads an error as it was told."""
    kind = getattr(errors, content["kind"], errors.Internal)
    made: errors.PolytokError = kind(
        content["message"],
        reason=content["reason"],
        metadata=content["metadata"],
        violations=[errors.FieldViolation(*each) for each in content["violations"]],
        retryable=content["retryable"],
    )
    return made


def _told(failure: errors.PolytokError) -> dict[str, Any]:
    return {
        "kind": type(failure).__name__,
        "message": failure.message,
        "reason": failure.reason,
        "metadata": failure.metadata,
        "violations": list(failure.violations),
        "retryable": failure.retryable,
    }


def main() -> int:
    """Trains this process's part; 1 where it failed, which the first process to fail tells."""
    # torchrun starts a session for each of its processes: whoever kills its group does not reach them.
    child.die_with(os.getppid())
    job = Job(**json.loads(pathlib.Path(sys.argv[1]).read_text()))
    with pathlib.Path(job.events).open("w", encoding="utf-8") as stream:
        return _run(job, stream)


def _run(job: Job, stream: TextIO) -> int:
    first = os.environ.get("RANK", "0") == "0"
    events = _Events(stream if first else None)
    from services.trainer import training  # noqa: PLC0415  after the environment is read

    planned = plan.TrainingPlan.from_dict(job.plan)
    origins = {name: export.Origin(**fields) for name, fields in job.origins.items()}
    read = Input.from_dict(job.read)
    try:
        done = training.train(
            planned,
            pathlib.Path(job.folder),
            open_data=read.open,
            report=lambda progress: events.send("progress", dataclasses.asdict(progress)),
            on_rows=lambda rows: events.send("rows", [each.to_dict() for each in rows]),
            stop=_FileStop(pathlib.Path(job.stop)),
            origin=(lambda each: origins[each.name]) if origins else None,
            resume=job.resume,
            keep=job.keep,
        )
    except errors.PolytokError as failure:
        # A failure of any process is the training's: those that only saw their peers go have none to tell.
        _Events(stream).send("error", _told(failure))
        return 1
    content = dataclasses.asdict(done)
    events.send("result", content | {"exports": {name: str(path) for name, path in done.exports.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
