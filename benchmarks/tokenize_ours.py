"""The worker's side of the tokenizing benchmark: `python -m benchmarks.tokenize_ours JSON`.

One process per core, as in `polytok up`, each with one thread per core; they take one shard after another, and one of
them publishes. Prints a line of JSON. Before the clock starts, tokenizer and engine are loaded, and the engine is
compared with the reference, as in a warm task process: `proof_seconds` is the processor time of that. The scan for
what the engine may not see, the samples of shards, checksums and publication are timed.
"""

import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
import resource
import sys
import threading
import time
import uuid
from typing import Any, NamedTuple

import pyarrow as pa

from benchmarks import raw_shards
from polytok.catalog.v1 import tasks_pb2 as catalog_tasks_pb2
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import stages_pb2, tasks_pb2
from services.jobs.task_process_main import TaskContext
from services.runtime import malloc_tuning
from services.runtime.storage import Storage
from services.tokenizer.engines import encoding_plan, selection, spot_check
from services.tokenizer.models import loader
from services.tokenizer.text import columns, shard_reader
from services.tokenizer.worker.tasks import arrange_task, assemble_task, encode_task, publish_task, shard_task

_WARM = "some words to begin with, " * 2000
_KEY = "tokenized"


def main(work: str, tokenizer: str, raw: list[dict[str, Any]], packed: int, engine: str) -> None:
    """Tokenize raw shards of a storage, publish, and return the seconds."""
    began = time.perf_counter()
    with Workers(min(len(os.sched_getaffinity(0)), len(raw)), (work, tokenizer, packed, engine)) as workers:
        proof_seconds = workers.prove(raw)
        before = sum(usage.seconds for usage in workers.usages())
        started = time.perf_counter() - began
        began = time.perf_counter()
        published, files = workers.run(raw)
        seconds = time.perf_counter() - began
        usages = workers.usages()
        steps = workers.steps(raw)
    answer = {
        "seconds": seconds,
        "processor_seconds": sum(usage.seconds for usage in usages) - before,
        "start_seconds": started,
        "proof_seconds": proof_seconds,
        "workers": len(usages),
        "engine": published.statistics.engine,
        "mismatches": published.statistics.num_engine_mismatches,
        "size_bytes": published.statistics.size_bytes,
        "sha256": raw_shards.sha256_of_ids(files),
        "files": [str(file) for file in files],
        "memory_bytes": max(usage.memory_bytes for usage in usages),
        "steps": steps,
    }
    print(json.dumps(answer))


class Usage(NamedTuple):
    """The resources that a worker has used since it started."""

    seconds: float
    memory_bytes: int


class Workers:
    """Warm processes that take tasks from one queue."""

    def __init__(self, count: int, arguments: tuple[str, str, int, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._count = count
        self._packed = bool(arguments[2])
        together = context.Barrier(count)
        self._pool = concurrent.futures.ProcessPoolExecutor(count, context, _begin, (together, *arguments))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def usages(self) -> list[Usage]:
        """Return the usage of each worker; waits until all are warm."""
        return [future.result() for future in [self._pool.submit(_usage) for _ in range(self._count)]]

    def prove(self, raw: list[dict[str, Any]]) -> float:
        """Have each worker compare the engine with the reference, over the content of a shard; see Child."""
        return max(future.result() for future in [self._pool.submit(_prove, raw[0]) for _ in range(self._count)])

    def run(self, raw: list[dict[str, Any]]) -> tuple[tasks_pb2.PublishTokenizationResult, list[pathlib.Path]]:
        """Tokenize every shard, and publish."""
        if self._packed and len(raw) > 1:
            return self._pool.submit(_publish, *self._staged(raw)).result()
        results = list(self._pool.map(_tokenize, range(len(raw)), raw, [len(raw)] * len(raw)))
        return self._pool.submit(_publish, results, []).result()

    def _staged(
        self, raw: list[dict[str, Any]]
    ) -> tuple[list[tasks_pb2.TokenizeShardResult], list[tokenizations_pb2.TokenizationStatistics]]:
        """Pack across shards, in the catalog's stages."""
        first_rows = itertools.accumulate((shard["num_rows"] for shard in raw[:-1]), initial=0)
        encoded = list(self._pool.map(_encode, range(len(raw)), raw, [len(raw)] * len(raw), first_rows))
        arranged = self._pool.submit(_arrange, [each.documents for each in encoded]).result()
        places = range(arranged.num_files)
        return list(self._pool.map(_assemble, places, [arranged] * len(places))), [each.statistics for each in encoded]

    def steps(self, raw: list[dict[str, Any]]) -> dict[str, float]:
        """See Child."""
        return self._pool.submit(_steps, raw).result()


_child: "Child"
_together: threading.Barrier


def _begin(together: threading.Barrier, *arguments: Any) -> None:
    global _child, _together
    # As the worker's task process does.
    malloc_tuning.tune_malloc()
    _child, _together = Child(*arguments), together
    warm = raw_shards.write(_child.work, f"warm-{os.getpid()}/raw", pa.array([_WARM]), 1)
    key = f"warm-{os.getpid()}/{_KEY}"
    _child.publish(key, [_child.tokenize(key, 0, warm[0], 1)], [])
    if arguments[2]:
        # In a warm task process, functions compiled on first use are compiled already.
        arranged = _child.arrange(key, [_child.encode(key, 0, warm[0], 1, 0).documents])
        _child.assemble(key, 0, arranged)


def _usage() -> Usage:
    _together.wait()  # so that each worker answers once
    return Usage(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)


def _prove(shard: dict[str, Any]) -> float:
    _together.wait()  # so that each worker does it once
    return _child.prove(shard)


def _tokenize(ordinal: int, shard: dict[str, Any], count: int) -> tasks_pb2.TokenizeShardResult:
    return _child.tokenize(_KEY, ordinal, shard, count)


def _encode(ordinal: int, shard: dict[str, Any], count: int, first_row: int) -> stages_pb2.EncodeShardResult:
    return _child.encode(_KEY, ordinal, shard, count, first_row)


def _arrange(documents: list[stages_pb2.StagedDocuments]) -> stages_pb2.ArrangeResult:
    return _child.arrange(_KEY, documents)


def _assemble(ordinal: int, arranged: stages_pb2.ArrangeResult) -> tasks_pb2.TokenizeShardResult:
    return _child.assemble(_KEY, ordinal, arranged)


def _publish(
    results: list[tasks_pb2.TokenizeShardResult], counted: list[tokenizations_pb2.TokenizationStatistics]
) -> tuple[tasks_pb2.PublishTokenizationResult, list[pathlib.Path]]:
    return _child.publish(_KEY, results, counted)


def _steps(raw: list[dict[str, Any]]) -> dict[str, float]:
    return _child.steps(raw)


class Child:
    """Runs tasks as the worker's task process does."""

    def __init__(self, work: str, tokenizer: str, packed: int, engine: str) -> None:
        self.work = pathlib.Path(work)
        self._context = TaskContext(str(uuid.uuid4()), 1, b"", lambda _: None)
        self._storage = Storage(work)
        self._tokenizers = loader.TokenizerCache(1)
        # Nothing is compared before `prove` requests it.
        self._chooser = selection.EngineSelector(engine, patience=1 << 20)
        self._engine = engine
        self._reference = tasks_pb2.TokenizerReference(repo_id=tokenizer)
        self._reference.fingerprint = self._tokenizers.get(self._reference).fingerprint
        self._parameters = tokenizations_pb2.TokenizationParameters(
            text_column="text", truncation=tokenizations_pb2.TokenizationParameters.TRUNCATION_NONE
        )
        if packed:
            none = tokenizations_pb2.Packing.BOUNDARY_NONE
            self._parameters.packing.begin_of_batch = self._parameters.packing.separator = none
            self._parameters.max_length = packed

    def tokenize(self, key: str, ordinal: int, shard: dict[str, Any], count: int) -> tasks_pb2.TokenizeShardResult:
        """Tokenize a shard."""
        task = self._task(key, ordinal, shard, count, 0)
        return shard_task.tokenize(task, self._storage, self._tokenizers, self._chooser, self._context)

    def _task(
        self, key: str, ordinal: int, shard: dict[str, Any], count: int, first_row: int
    ) -> tasks_pb2.TokenizeShardTask:
        return tasks_pb2.TokenizeShardTask(
            shard=catalog_tasks_pb2.RawShard(**shard),
            tokenizer=self._reference,
            parameters=self._parameters,
            tokenized_key=key,
            ordinal=ordinal,
            count=count,
            first_row=first_row,
        )

    def encode(
        self, key: str, ordinal: int, shard: dict[str, Any], count: int, first_row: int
    ) -> stages_pb2.EncodeShardResult:
        """Stage the ids of a shard."""
        task = self._task(key, ordinal, shard, count, first_row)
        return encode_task.encode(task, self._storage, self._tokenizers, self._chooser, self._context)

    def arrange(self, key: str, documents: list[stages_pb2.StagedDocuments]) -> stages_pb2.ArrangeResult:
        """Record what was staged."""
        task = stages_pb2.ArrangeTask(
            tokenized_key=key,
            parameters=self._parameters,
            documents=documents,
            dataset_rows=documents[-1].first_row + documents[-1].num_rows,
        )
        return arrange_task.arrange(task, self._storage, self._context)

    def assemble(self, key: str, ordinal: int, arranged: stages_pb2.ArrangeResult) -> tasks_pb2.TokenizeShardResult:
        """Write a file from what was staged."""
        task = stages_pb2.ArrangedTask(
            arrangement_key=arranged.arrangement_key,
            arrangement_sha256=arranged.arrangement_sha256,
            tokenized_key=key,
            tokenizer=self._reference,
            parameters=self._parameters,
            ordinal=ordinal,
            count=arranged.num_files,
        )
        return assemble_task.assemble(task, self._storage, self._tokenizers, self._context)

    def publish(
        self,
        key: str,
        results: list[tasks_pb2.TokenizeShardResult],
        counted: list[tokenizations_pb2.TokenizationStatistics],
    ) -> tuple[tasks_pb2.PublishTokenizationResult, list[pathlib.Path]]:
        """Publish, and rename the folder's small files, as the catalog does."""
        task = tasks_pb2.PublishTokenizationTask(
            tokenized_key=key, shards=results, tokenizer=self._reference, parameters=self._parameters, counted=counted
        )
        published = publish_task.publish(task, self._storage, self._tokenizers, self._context)
        for staged in published.staged_files:
            self._storage.move(staged.staged_key, staged.final_key)
        paths = [self._storage.local_path(file.key) for result in results for file in result.files]
        return published, [path for path in paths if path is not None]

    def prove(self, shard: dict[str, Any]) -> float:
        """Compare the engine with the reference, over all code points of a shard; return the processor seconds."""
        self._chooser = selection.EngineSelector(self._engine)
        message = catalog_tasks_pb2.RawShard(**shard)
        tokenizer = self._tokenizers.get(self._reference)
        seconds = 0.0
        with shard_reader.open_verified(self._storage, message) as file:
            for piece in shard_reader.pieces(file, message, columns.TextColumn("text")):
                began = time.process_time()
                engine = self._chooser.choose(tokenizer, "raw", piece.texts)
                if isinstance(engine, encoding_plan.EncodingPlan):
                    engine.apart(piece.texts)
                seconds += time.process_time() - began
        return seconds

    def steps(self, raw: list[dict[str, Any]]) -> dict[str, float]:
        """Return the seconds of each step alone, without their usual overlap."""
        seconds = dict.fromkeys(("read", "encode", "scan", "sample"), 0.0)
        tokenizer = self._tokenizers.get(self._reference)
        exact = self._chooser.reference(tokenizer)
        for shard in raw:
            message = catalog_tasks_pb2.RawShard(**shard)
            began = time.perf_counter()
            with shard_reader.open_verified(self._storage, message) as file:
                pieces = [piece.texts for piece in shard_reader.pieces(file, message, columns.TextColumn("text"))]
            seconds["read"] += time.perf_counter() - began
            engine = self._chooser.choose(tokenizer, "raw", pieces[0])
            sampled = spot_check.SpotCheckedEngine(engine, exact, seed=1, shard_bytes=message.text_bytes)
            for texts in pieces:
                began = time.perf_counter()
                if isinstance(engine, encoding_plan.EncodingPlan):
                    engine.apart(texts)
                # A part of encoding.
                seconds["scan"] += time.perf_counter() - began
                began = time.perf_counter()
                engine.encode(texts)
                encoded = time.perf_counter()
                sampled.encode(texts)
                seconds["encode"] += encoded - began
                # The additional time over encoding alone; by then the engine has seen every word.
                seconds["sample"] += max(0.0, time.perf_counter() - encoded - (encoded - began))
        return seconds


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
