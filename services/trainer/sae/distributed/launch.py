"""Train with several processes on this machine, each with its own device, started by torchrun.

The processes read a job as JSON and report events as lines of JSON on a named pipe, because torchrun does not forward
their output; a file requests them to stop. torchrun (https://docs.pytorch.org/docs/stable/elastic/run.html) ends all
of them when one fails, and they end when this process ends for any reason.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from polytok import errors
from services.runtime.telemetry import logging
from services.trainer.sae import configs, export, reports
from services.trainer.sae.distributed import rank_main, torchrun_main

_STOP_SECONDS = 0.2

_log = logging.get(__name__)


def _silent(_: object) -> None:
    pass


def train(
    training: configs.TrainingPlan,
    folder: pathlib.Path,
    read: Mapping[str, Any],
    *,
    module: str,
    report: reports.OnProgress = _silent,
    on_rows: reports.OnRows = _silent,
    stop: reports.Stop | None = None,
    origins: Mapping[str, export.Origin] | None = None,
    resume: bool = True,
    keep: int = 2,
) -> reports.Result:
    """Train as `train.train` does, in the plan's number of processes.

    They run `module`, whose main program calls `rank_main.main` with a function that opens `read`. `origins` is the
    provenance for exports, by autoencoder. A training resumes with the number of processes that it began with. Raises
    what `train.train` raises in any of them, and `errors.Internal` if a process died.
    """
    with tempfile.TemporaryDirectory(prefix="polytok-train-") as temporary:
        job = rank_main.RankJob(
            plan=training.to_dict(),
            folder=str(folder.absolute()),
            read=dict(read),
            origins={name: dataclasses.asdict(origin) for name, origin in (origins or {}).items()},
            resume=resume,
            keep=keep,
            stop=str(pathlib.Path(temporary, "stop")),
            events=str(pathlib.Path(temporary, "events")),
        )
        path = pathlib.Path(temporary, "job.json")
        path.write_text(json.dumps(dataclasses.asdict(job)))
        os.mkfifo(job.events)
        following = _EventReader(report, on_rows)
        code = _run([module, str(path)], job, _environment(training), following, stop or threading.Event())
        return following.result or _raise(path.parent, training.processes, code)


def _environment(training: configs.TrainingPlan) -> dict[str, str]:
    given = dict(os.environ)
    if training.threads:
        given["OMP_NUM_THREADS"] = str(training.threads)
    # Without a number each process would start one thread per core. They connect on this machine, whatever its name
    # resolves to.
    known = {"OMP_NUM_THREADS": "1"} | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    return known | given | {torchrun_main.PARENT: str(os.getpid()), torchrun_main.PROCESSES: str(training.processes)}


def _run(
    arguments: list[str],
    job: rank_main.RankJob,
    environment: dict[str, str],
    following: "_EventReader",
    stop: reports.Stop,
) -> int:
    """Run the processes until they have ended; return torchrun's exit code."""
    ended = threading.Event()
    # Open for writing too, so that the pipe does not end before the processes were waited for.
    with open(os.open(job.events, os.O_RDWR), "r+b", buffering=0) as events:  # noqa: PTH123  of a descriptor
        process = subprocess.Popen(
            [sys.executable, "-m", torchrun_main.__name__, *arguments], env=environment, stdin=subprocess.DEVNULL
        )
        threads = [
            threading.Thread(target=_forward_stop, args=(stop, pathlib.Path(job.stop), ended), daemon=True),
            threading.Thread(target=_signal_end, args=(process, events), daemon=True),
        ]
        try:
            for thread in threads:
                thread.start()
            following.read(events)
        finally:
            ended.set()
            # torchrun ends its own processes too.
            process.terminate()
            for thread in threads:
                thread.join()
    return process.returncode


def _signal_end(process: subprocess.Popen[bytes], events: BinaryIO) -> None:
    process.wait()
    # A killed process may have left half a line.
    events.write(b"\n" + rank_main.END + b"\n")


def _forward_stop(stop: reports.Stop, file: pathlib.Path, ended: threading.Event) -> None:
    while not ended.wait(_STOP_SECONDS):
        if stop.is_set():
            file.touch()
            return


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines as they arrive: a file object of a pipe would wait for more."""
    rest = b""
    while chunk := stream.read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


class _EventReader:
    """Forwards the events of the first process, and keeps its result."""

    def __init__(self, report: reports.OnProgress, on_rows: reports.OnRows) -> None:
        self._report = report
        self._on_rows = on_rows
        self.result: reports.Result | None = None

    def read(self, events: BinaryIO) -> None:
        """Read until the processes have ended."""
        for line in _lines(events):
            if line == rank_main.END:
                return
            try:
                event: dict[str, Any] = json.loads(line) if line else {"kind": ""}
            except ValueError:
                _log.warning("a process of the training died in the middle of a line")
                continue
            self._take(event["kind"], event.get("content"))

    def _take(self, kind: str, content: Any) -> None:
        if kind == "progress":
            self._report(reports.Progress(**content))
        elif kind == "rows":
            self._on_rows([rank_main.row_from_dict(each) for each in content])
        elif kind == "result":
            self.result = rank_main.result_from_dict(content)


def _raise(folder: pathlib.Path, processes: int, code: int) -> reports.Result:
    """Raise the error that ended the processes: the first that was reported, otherwise how a process died."""
    failures = sorted(
        (json.loads(path.read_bytes()) for path in folder.glob(rank_main.ERRORS)), key=lambda each: each["time"]
    )
    for each in failures:
        if each["kind"] != rank_main.UNEXPECTED:
            raise rank_main.error_from_dict(each)
    died = _read_first_death(folder)
    # After one was killed, the others fail because it is gone.
    if failures and died.get("code", 0) >= 0:
        rank, failure = failures[0]["rank"], failures[0]["message"]
        raise errors.Internal(
            f"Process {rank + 1} of the {processes} of the training failed unexpectedly ({failure}); see the "
            "worker's log. The training resumes from its newest checkpoint.",
            metadata={"rank": str(rank)},
        )
    who = f"Process {died['rank'] + 1} of the {processes} of the training" if died else "torchrun"
    how = _describe_exit(int(died.get("code", code)))
    raise errors.Internal(
        f"{who} {how}; the worker's log may show the cause. The training resumes from its newest checkpoint.",
        reason="WORKER_LOST",
        metadata={"rank": str(died.get("rank", ""))},
    )


def _read_first_death(folder: pathlib.Path) -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads((folder / torchrun_main.DIED).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    by = f"was killed by {signal.Signals(-code).name}"
    return f"{by} (out of memory?)" if -code == signal.SIGKILL else by
