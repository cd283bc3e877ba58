"""Library of the processes that torchrun starts for a training; a main program calls `main`.

The first process writes events to the job's named pipe, one line of JSON each. A process that fails leaves the error
in the job's folder. See `launch`.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from polytok import errors
from polytok.errors import codec
from services.jobs import task_process_main
from services.runtime.settings import TelemetrySettings
from services.runtime.telemetry import logging
from services.trainer.sae import configs, export, reports
from services.trainer.sae.data.dataset import ActivationDataset
from services.trainer.sae.distributed import torchrun_main

END = b"end"
"""Follows the last event, on a line of its own."""
UNEXPECTED = "UNEXPECTED"
"""The kind of an error that is not a PolytokError."""
ERRORS = "error-*.json"

_log = logging.get(__name__)


@dataclasses.dataclass(frozen=True)
class RankJob:
    """The job that all processes of a training get."""

    plan: dict[str, Any]
    folder: str
    read: dict[str, Any]
    """What is read, as the function that opens it understands it."""
    origins: dict[str, dict[str, Any]]
    resume: bool
    keep: int
    stop: str
    """A file whose existence stops the training."""
    events: str
    """A named pipe."""


Opener = Callable[[RankJob], Callable[[str], ActivationDataset]]
"""Returns, for a job, a function that opens its data on a device."""


class _FileStop:
    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def is_set(self) -> bool:
        return self._path.exists()


class _Events:
    """Reports events; only the first process does."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def send(self, kind: str, content: Any) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps({"kind": kind, "content": content}) + "\n")
            self._stream.flush()


def row_from_dict(content: dict[str, Any]) -> reports.Row:
    """Read a reported row."""
    return reports.EvaluationRow(**content) if "figures" in content else reports.MetricsRow(**content)


def result_from_dict(content: dict[str, Any]) -> reports.Result:
    """Read a reported result."""
    exports = {name: pathlib.Path(folder) for name, folder in content["exports"].items()}
    evaluations = [reports.EvaluationRow(**each) for each in content["evaluations"]]
    return reports.Result(**content | {"exports": exports, "evaluations": evaluations})


def error_from_dict(content: dict[str, Any]) -> errors.PolytokError:
    """Read a reported error."""
    return codec.from_message(codec.from_json(content["error"]))


def _error_to_dict(failure: Exception) -> dict[str, Any]:
    if not isinstance(failure, errors.PolytokError):
        return {"kind": UNEXPECTED, "message": type(failure).__name__}
    return {"kind": "", "message": failure.message, "error": codec.to_json(failure)}


def main(opener: Opener) -> int:
    """Train this process's share; return 1 after a failure, which is written to the job's folder."""
    # torchrun starts a session for each of its processes: killing its process group does not reach them.
    task_process_main.exit_with_parent(int(os.environ[torchrun_main.LAUNCHER]))
    rank = int(os.environ["RANK"])
    logging.configure(TelemetrySettings(), f"{os.environ.get(task_process_main.SERVICE, 'trainer')}-rank-{rank}")
    path = pathlib.Path(sys.argv[1])
    job = RankJob(**json.loads(path.read_text()))
    try:
        with pathlib.Path(job.events).open("w", encoding="utf-8") as stream:
            _train(job, opener(job), _Events(stream if rank == 0 else None))
    except Exception as failure:
        if not isinstance(failure, errors.PolytokError):
            _log.exception("a process of a training failed unexpectedly", rank=rank)
        _write_error(path.parent, rank, failure)
        return 1
    return 0


def _write_error(folder: pathlib.Path, rank: int, failure: Exception) -> None:
    """Write the error atomically: torchrun may end this process at any moment, because another has failed too."""
    part = folder / f"{rank}.part"
    part.write_text(json.dumps(_error_to_dict(failure) | {"rank": rank, "time": time.time()}))
    part.rename(folder / ERRORS.replace("*", str(rank)))


def _train(job: RankJob, open_data: Callable[[str], ActivationDataset], events: _Events) -> None:
    from services.trainer.sae import train  # noqa: PLC0415  after the environment is read

    origins = {name: export.Origin.from_dict(fields) for name, fields in job.origins.items()}
    done = train.train(
        configs.TrainingPlan.from_dict(job.plan),
        pathlib.Path(job.folder),
        open_data=open_data,
        report=lambda progress: events.send("progress", dataclasses.asdict(progress)),
        on_rows=lambda rows: events.send("rows", [each.to_dict() for each in rows]),
        stop=_FileStop(pathlib.Path(job.stop)),
        origin=(lambda each: origins[each.name]) if origins else None,
        resume=job.resume,
        keep=job.keep,
    )
    content = dataclasses.asdict(done)
    events.send("result", content | {"exports": {name: str(path) for name, path in done.exports.items()}})
