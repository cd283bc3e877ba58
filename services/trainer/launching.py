"""Trains with several processes on this machine, one a GPU, started by torchrun.

The processes get a job as JSON and tell what happens as lines of JSON on a named pipe, which torchrun would not hand
on otherwise; to stop them a file is made. torchrun (https://docs.pytorch.org/docs/stable/elastic/run.html) ends all of
them when one fails.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from polytok import errors
from services.trainer import export, plan, ranked, reports
from services.trainer.inputs import Input

_STOP_SECONDS = 0.2


def _silent(_: object) -> None:
    pass


def train(
    training: plan.TrainingPlan,
    folder: pathlib.Path,
    read: Input,
    *,
    processes: int,
    report: reports.OnProgress = _silent,
    on_rows: reports.OnRows = _silent,
    stop: reports.Stop | None = None,
    origins: Mapping[str, export.Origin] | None = None,
    resume: bool = True,
    keep: int = 2,
) -> reports.Result:
    """Trains as `training.train` does, each of the processes on its part of every batch.

    `origins` are what exports say of themselves, by autoencoder. A training goes on with the number of processes that
    it began with. Raises what `training.train` raises, and `errors.Internal` where a process died.
    """
    with tempfile.TemporaryDirectory(prefix="polytok-train-") as temporary:
        job = ranked.Job(
            plan=training.to_dict(),
            folder=str(folder.absolute()),
            read=read.to_dict(),
            origins={name: dataclasses.asdict(origin) for name, origin in (origins or {}).items()},
            resume=resume,
            keep=keep,
            stop=str(pathlib.Path(temporary, "stop")),
            events=str(pathlib.Path(temporary, "events")),
        )
        path = pathlib.Path(temporary, "job.json")
        path.write_text(json.dumps(dataclasses.asdict(job)))
        os.mkfifo(job.events)
        return _run(path, job, processes, _Following(report, on_rows), stop or threading.Event())


def _run(
    path: pathlib.Path, job: ranked.Job, processes: int, following: "_Following", stop: reports.Stop
) -> reports.Result:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "services.trainer.ranked", str(path)]
    ended = threading.Event()
    # Open for writing too, so that the end of the processes is told by who waits for them.
    with open(os.open(job.events, os.O_RDWR), "r+b", buffering=0) as events:  # noqa: PTH123  of a descriptor
        process = subprocess.Popen(command, env={"OMP_NUM_THREADS": "1"} | os.environ)
        threads = [
            threading.Thread(target=_hand_on, args=(stop, pathlib.Path(job.stop), ended), daemon=True),
            threading.Thread(target=_tell_end, args=(process, events), daemon=True),
        ]
        try:
            for thread in threads:
                thread.start()
            following.read(events)
        finally:
            ended.set()
            # Ends its own processes too.
            process.terminate()
            for thread in threads:
                thread.join()
    return following.outcome(process.returncode)


def _tell_end(process: subprocess.Popen[bytes], events: BinaryIO) -> None:
    process.wait()
    events.write(ranked.END)


def _hand_on(stop: reports.Stop, file: pathlib.Path, ended: threading.Event) -> None:
    while not ended.wait(_STOP_SECONDS):
        if stop.is_set():
            file.touch()
            return


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines as they come: a file object of a pipe would wait for more."""
    rest = b""
    while chunk := stream.read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)


class _Following:
    """Hands on what the processes tell, and keeps how they ended."""

    def __init__(self, report: reports.OnProgress, on_rows: reports.OnRows) -> None:
        self._report = report
        self._on_rows = on_rows
        self._result: reports.Result | None = None
        self._error: errors.PolytokError | None = None

    def read(self, events: BinaryIO) -> None:
        """Reads until the processes have ended."""
        for line in _lines(events):
            if line == ranked.END:
                return
            event: dict[str, Any] = json.loads(line)
            self._take(event["kind"], event["content"])

    def _take(self, kind: str, content: Any) -> None:
        if kind == "progress":
            self._report(reports.Progress(**content))
        elif kind == "rows":
            self._on_rows([ranked.row(each) for each in content])
        elif kind == "result":
            self._result = ranked.result(content)
        elif self._error is None:
            self._error = ranked.error(content)

    def outcome(self, code: int) -> reports.Result:
        """Gives the result, or raises what was told in place of one."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise errors.Internal(
                f"The processes of the training ended with exit code {code}; their log has the reason. Resume it: it "
                "goes on from its newest checkpoint.",
                reason="WORKER_LOST",
            )
        return self._result
