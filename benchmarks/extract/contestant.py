"""A process for each side of the comparison: `python -m benchmarks.extract.contestant SIDE CASE ROWS FOLDER`.

It loads its model, writes a line, and then runs once for every line that it reads, answering with its seconds. So no
side affects the threads, memory or settings of another.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time
import warnings
from types import TracebackType
from typing import Any

from benchmarks.extract import material

BARE, OURS, COMPILED, HOOKED, PROXY = (
    "bare forward",
    "ours, to disk",
    "ours, compiled, to disk",
    "SAELens, HookedTransformer",
    "SAELens, AutoModelForCausalLM",
)


class Contestant:
    """The process as the benchmark sees it."""

    def __init__(self, side: str, case: material.Case, work: pathlib.Path) -> None:
        self._arguments = [sys.executable, "-m", __name__, side, case.name, str(case.rows), str(work)]
        self._log = work / f"{side}.log"

    def __enter__(self) -> "Contestant":
        self._file = self._log.open("wb")
        self._process = subprocess.Popen(
            self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._file, text=True
        )
        self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._file.close()

    def run(self) -> tuple[float, float]:
        """Run once; return the seconds of the clock and of the processors."""
        if self._process.stdin is None:
            raise RuntimeError("The process has no standard input.")
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        answer = self._read()
        return answer["clock"], answer["processor"]

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self._process.wait()
            raise RuntimeError(f"{' '.join(self._arguments[2:4])} failed:\n{self._log.read_text()[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main(side: str, case_name: str, rows: str, folder: str) -> None:
    """Run once per line of standard input."""
    warnings.simplefilter("ignore")
    answers = sys.stdout
    # The output of libraries is not a response.
    sys.stdout = sys.stderr
    from benchmarks.extract import runs  # noqa: PLC0415

    case = next(case for case in (material.CPU, material.GPU) if case.name == case_name)
    case = dataclasses.replace(case, rows=int(rows))
    work = pathlib.Path(folder)
    model, dataset = work / "model", material.tokens(case)
    if side == BARE:
        run = runs.bare(case, model, dataset)
    elif side in (OURS, COMPILED):
        target = work / ("ours" if side == OURS else "compiled")
        run = runs.ours(case, model, dataset, target, compiled=side == COMPILED)
    else:
        kind = side.removeprefix("SAELens, ")
        run = runs.saelens(case, model, dataset, work / kind, kind)
    print("{}", file=answers, flush=True)
    for _ in sys.stdin:
        before = time.process_time()
        clock = run()
        print(json.dumps({"clock": clock, "processor": time.process_time() - before}), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
