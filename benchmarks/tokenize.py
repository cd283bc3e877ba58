"""Tokenizing: the worker's path from raw shards to a published folder, against `datasets.map` and `save_to_disk`.

`make bench-tokenize` runs it and writes `benchmarks/results/tokenize.json`. Every measurement is a process of its own.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import corpus, raw_shards, report
from services.runtime import malloc_tuning

console = Console()
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
AIMS = {"gpt2": 50, "phi4": 50, "llama2": 20, "wordpiece": 10}
"""The project's goal, in multiples of the baseline's speed."""
_ROW = 1024
_TIMES = 32
_MADE_BYTES = 16_000_000
_LOAD = 2.5
_LONGEST_SECONDS = 600
_COMING = "1.0.0rc3"
"""The upcoming version of `tokenizers`, which encodes many times faster than the one that `transformers` requires."""


class Bench:
    """Runs the measurements, and shows the progress."""

    def __init__(self, work: pathlib.Path, progress: Progress, steps: int) -> None:
        self._work = work
        self._progress = progress
        self._task = progress.add_task("", total=steps)

    def ours(self, tokenizer: pathlib.Path, raw: list[dict[str, Any]], packed: int) -> dict[str, Any]:
        """Run the worker's path, and copy its files as a lower bound."""
        arguments = {"work": str(self._work), "tokenizer": str(tokenizer), "raw": raw, "packed": packed}
        shutil.rmtree(self._work / "tokenized", ignore_errors=True)
        found = self._run("ours", tokenizer.name, "benchmarks.tokenize_ours", {**arguments, "engine": "auto"})
        found["copy_seconds"] = self._copy(found.pop("files"))
        return found

    def theirs(
        self, tokenizer: pathlib.Path, source: pathlib.Path, packed: int, coming: pathlib.Path | None = None
    ) -> dict[str, Any]:
        """Run the baseline; `coming` is a folder with another version of `tokenizers`."""
        target = self._work / "theirs"
        shutil.rmtree(target, ignore_errors=True)
        arguments = {"source": str(source), "tokenizer": str(tokenizer), "target": str(target), "packed": packed}
        who = "datasets.map" if coming is None else f"… with {_COMING}"
        return self._run(
            who, tokenizer.name, "benchmarks.tokenize_theirs", {**arguments, "alone": coming is not None}, coming
        )

    def _run(
        self, who: str, name: str, module: str, arguments: dict[str, Any], path: pathlib.Path | None = None
    ) -> dict[str, Any]:
        kind = "packed" if arguments["packed"] else "plain"
        self._progress.update(self._task, description=f"{name} {kind}: {who}")
        # Otherwise the writes of an earlier process would reach the disk during this one.
        os.sync()
        done = subprocess.run(
            [sys.executable, "-m", module, json.dumps(arguments)],
            env=os.environ | _threads(ours=who == "ours") | (_alone(path) if path else {}),
            timeout=_LONGEST_SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{module} failed:\n{done.stderr[-4000:]}")
        self._progress.advance(self._task)
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def _copy(self, files: list[str]) -> float:
        """Return the seconds of a plain copy of the files, until it is on disk."""
        began = time.perf_counter()
        for file in files:
            target = self._work / "copy.arrow"
            shutil.copyfile(file, target)
            descriptor = os.open(target, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        return time.perf_counter() - began


def _threads(*, ours: bool) -> dict[str, str]:
    """Return the thread settings of the worker's task process.

    The baseline's processes share the cores as `datasets` does.
    """
    cores = str(len(os.sched_getaffinity(0)))
    if ours:
        threads = {"RAYON_NUM_THREADS": cores, "TOKENIZERS_PARALLELISM": "true", "OMP_NUM_THREADS": "1"}
        return threads | malloc_tuning.huge_pages()
    return {"TOKENIZERS_PARALLELISM": "false"}


def _alone(path: pathlib.Path) -> dict[str, str]:
    """Return the environment for another version of `tokenizers`, which has threads of its own."""
    return {"PYTHONPATH": str(path), "TOKENIZERS_PARALLELISM": "true"}


def main(*names: str) -> None:
    """Run every part and write the report; with names of tokenizers, only show those."""
    found = report.Report("tokenize")
    found.baseline("datasets", "transformers", "tokenizers", "gigatoken", "fastokens", "numba", "pyarrow")
    with tempfile.TemporaryDirectory(prefix="polytok-bench-") as folder:
        work = pathlib.Path(folder)
        texts, tokenizers = _material(work, found)
        chosen = [tokenizer for tokenizer in tokenizers if not names or tokenizer.name in names]
        once = raw_shards.write(work, "raw", texts, 1)
        many = raw_shards.write(work, "many/raw", texts, _TIMES)
        found.notes |= {
            "load_before": f"{os.getloadavg()[0]:.1f}",
            "ours": f"{_bytes(many) / 1e6:.0f} MB, the corpus {_TIMES} times in {len(many)} shards, and once; one "
            "worker per core, each with one thread per core; tokenizer and engine loaded; probe, sample, "
            "checksums and publication are timed",
            "theirs": f"{_bytes(once) / 1e6:.0f} MB, the corpus once; num_proc is all cores; tokenizer loaded",
            "ids": "hash equal to the baseline's: plain row for row; packed against the baseline's documents in one "
            "stream, as its own rows drop what does not fill a row in each batch",
        }
        if os.getloadavg()[0] > _LOAD:
            console.print(f"[yellow]The load average is over {_LOAD}: other work slows both sides.[/]")
        columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            coming = _coming(work, found)
            bench = Bench(work, progress, steps=(8 if coming else 6) * len(chosen))
            for tokenizer in chosen:
                _measure(bench, tokenizer, work, once, many, coming, found)
    found.notes["load_after"] = f"{os.getloadavg()[0]:.1f}"
    found.show(console)
    if not names:
        console.print(f"Written to {found.write()}")


def _measure(
    bench: Bench,
    tokenizer: pathlib.Path,
    work: pathlib.Path,
    once: list[dict[str, Any]],
    many: list[dict[str, Any]],
    coming: pathlib.Path | None,
    found: report.Report,
) -> None:
    name = tokenizer.name
    expected: dict[str, Any] = {}
    for packed in (0, _ROW):
        kind = f"{name}, {'packed' if packed else 'plain'}"
        theirs = bench.theirs(tokenizer, work / once[0]["key"], packed)
        expected |= theirs if not packed else {}
        single = bench.ours(tokenizer, once, packed)
        steady = bench.ours(tokenizer, many, packed)
        if single["sha256"] != expected["packed_sha256" if packed else "sha256"]:
            raise RuntimeError(f"{kind}: the ids are not those of the baseline.")
        speeds = [_bytes(raw) / 1e6 / run["seconds"] for raw, run in ((once, theirs), (once, single), (many, steady))]
        found.add(f"{kind}: datasets.map", speeds[0], "MB/s")
        found.add(f"{kind}: ours, corpus once", speeds[1], "MB/s")
        found.add(f"{kind}: ours, {len(many)} shards", speeds[2], "MB/s", above=AIMS.get(name, 1) * speeds[0])
        if coming:
            new = bench.theirs(tokenizer, work / once[0]["key"], packed, coming)
            speed = _bytes(once) / 1e6 / new["seconds"]
            found.add(f"{kind}: datasets.map, tokenizers {_COMING}", speed, "MB/s")
            found.ratios[f"{kind}, {len(many)} shards, to tokenizers {_COMING}"] = speeds[2] / speed
            if not packed:
                same = "the same" if new["sha256"] == theirs["sha256"] else "others"
                found.notes[f"ids of {name} by tokenizers {_COMING}"] = f"{same} as by {theirs['version']}"
        found.ratios[f"{kind}, corpus once"] = speeds[1] / speeds[0]
        found.ratios[f"{kind}, {len(many)} shards"] = speeds[2] / speeds[0]
        # Other load on the machine affects this ratio less than that of the clock.
        found.ratios[f"{kind}, {len(many)} shards, processor time"] = (
            _bytes(many) / steady["processor_seconds"] * theirs["processor_seconds"] / _bytes(once)
        )
        found.ratios[f"{kind}, to a plain copy of the output"] = steady["copy_seconds"] / steady["seconds"]
        found.add(f"{kind}: memory, peak", steady["memory_bytes"] / 2**20, "MiB", below=1024)
        found.notes[f"engine of {kind}"] = f"{steady['engine']}, started in {steady['start_seconds']:.1f} s"
        steps = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in steady["steps"].items())
        found.notes[f"steps of {kind}"] = (
            f"{steady['seconds']:.2f} s, processor {steady['processor_seconds']:.2f} s; each alone: {steps}, "
            f"plain copy {steady['copy_seconds']:.2f} s"
        )


def _coming(work: pathlib.Path, found: report.Report) -> pathlib.Path | None:
    """Install the upcoming version of `tokenizers` beside the environment, visible to the baseline only."""
    folder = work / "coming"
    package = f"tokenizers=={_COMING}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        found.notes[package] = "could not be installed, and was not measured"
        console.print(f"[yellow]{package} {found.notes[package]}: {done.stderr[-300:]}[/]")
        return None
    found.baselines[package] = _COMING
    return folder


def _material(work: pathlib.Path, found: report.Report) -> tuple[pa.Array, list[pathlib.Path]]:
    """Return the corpus and tokenizers of `shared/`; if missing, they are generated."""
    file = SHARED / "corpus" / "mix32.parquet"
    if file.is_file():
        texts = pq.read_table(file, columns=["text"])["text"].combine_chunks()
        tokenizers = [SHARED / "tokenizers" / name for name in ("gpt2", "phi4", "llama2")]
        found.notes["corpus"] = file.name
    else:
        console.print(f"There is no {file}: GPT-2, Phi-4 and Llama 2 are skipped; corpus and tokenizers are generated.")
        few = list(corpus.documents(100))
        count = 100 * _MADE_BYTES // sum(len(text.encode()) for text in few)
        texts = pa.array(list(corpus.documents(count)))
        corpus.write_tokenizer(work / "byte-level")
        tokenizers = [work / "byte-level"]
        found.notes["corpus"] = "Python's manual, repeated: speeds of real text are lower"
    corpus.write_wordpiece(work / "wordpiece", texts[: max(200, len(texts) // 4)].to_pylist())
    return texts, [*tokenizers, work / "wordpiece"]


def _bytes(raw: list[dict[str, Any]]) -> int:
    return sum(shard["text_bytes"] for shard in raw)


if __name__ == "__main__":
    main(*sys.argv[1:])
