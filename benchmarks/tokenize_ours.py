"""What a worker's child does with a tokenization's tasks: `python -m benchmarks.tokenize_ours JSON`.

Prints a line of JSON. The tokenizer is loaded and its engine chosen before the clock starts, as in a child at work; the
probe of the dataset's documents, the samples of its shards, the checksums and the publication are in the time.
"""

import json
import pathlib
import resource
import sys
import time
import uuid
from typing import Any

import pyarrow as pa

from benchmarks import raw_shards
from polytok.catalog.v1 import tasks_pb2 as catalog_tasks_pb2
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.runtime.jobs.child import TaskContext
from services.runtime.storage import Storage
from services.tokenizer import loading, publishing, reading, shards
from services.tokenizer.engines import choosing, sampling

_WARM = "some words to begin with, " * 2000


def main(work: str, tokenizer: str, raw: list[dict[str, Any]], packed: int, engine: str) -> None:
    """Tokenizes raw shards of a storage, publishes, and tells how long it took."""
    child = Child(work, tokenizer, packed, engine)
    began = time.perf_counter()
    child.run("warm/tokenized", raw_shards.write(pathlib.Path(work), "warm/raw", pa.array([_WARM]), 1))
    started = time.perf_counter() - began
    began, processor = time.perf_counter(), time.process_time()
    published, files = child.run("tokenized", raw)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    answer = {
        "seconds": seconds,
        "processor_seconds": processor,
        "start_seconds": started,
        "engine": published.statistics.engine,
        "mismatches": published.statistics.num_engine_mismatches,
        "size_bytes": published.statistics.size_bytes,
        "sha256": raw_shards.sha256_of_ids(files),
        "files": [str(file) for file in files],
        "memory_bytes": memory,
        "steps": child.steps(raw),
    }
    print(json.dumps(answer))


class Child:
    """Runs tasks as the worker's child does."""

    def __init__(self, work: str, tokenizer: str, packed: int, engine: str) -> None:
        self._storage = Storage(work)
        self._tokenizers = loading.Tokenizers(1)
        self._chooser = choosing.Chooser(engine)
        self._reference = tasks_pb2.TokenizerReference(repo_id=tokenizer)
        self._reference.fingerprint = self._tokenizers.get(self._reference).fingerprint
        self._parameters = tokenizations_pb2.TokenizationParameters(
            text_column="text", truncation=tokenizations_pb2.TokenizationParameters.TRUNCATION_NONE
        )
        if packed:
            none = tokenizations_pb2.Packing.BOUNDARY_NONE
            self._parameters.packing.begin_of_batch = self._parameters.packing.separator = none
            self._parameters.max_length = packed

    def run(
        self, key: str, raw: list[dict[str, Any]]
    ) -> tuple[tasks_pb2.PublishTokenizationResult, list[pathlib.Path]]:
        """Tokenizes, publishes, and gives the folder's small files their names, as the catalog does."""
        context = TaskContext(str(uuid.uuid4()), 1, b"", lambda _: None)
        results = [
            shards.tokenize(
                tasks_pb2.TokenizeShardTask(
                    shard=catalog_tasks_pb2.RawShard(**shard),
                    tokenizer=self._reference,
                    parameters=self._parameters,
                    tokenized_key=key,
                    ordinal=ordinal,
                    count=len(raw),
                ),
                self._storage,
                self._tokenizers,
                self._chooser,
                context,
            )
            for ordinal, shard in enumerate(raw)
        ]
        task = tasks_pb2.PublishTokenizationTask(
            tokenized_key=key, shards=results, tokenizer=self._reference, parameters=self._parameters
        )
        published = publishing.publish(task, self._storage, context)
        for staged in published.staged_files:
            self._storage.move(staged.staged_key, staged.final_key)
        paths = [self._storage.local_path(file.key) for result in results for file in result.files]
        return published, [path for path in paths if path is not None]

    def steps(self, raw: list[dict[str, Any]]) -> dict[str, float]:
        """Seconds of each step by itself, without the overlap that they have at work."""
        seconds = dict.fromkeys(("read", "encode", "sample"), 0.0)
        tokenizer = self._tokenizers.get(self._reference)
        exact = self._chooser.reference(tokenizer)
        for shard in raw:
            message = catalog_tasks_pb2.RawShard(**shard)
            began = time.perf_counter()
            with reading.verified(self._storage, message) as file:
                pieces = [piece.texts for piece in reading.slices(file, message, "text")]
            seconds["read"] += time.perf_counter() - began
            engine = self._chooser.choose(tokenizer, "raw", pieces[0])
            sampled = sampling.Sampled(engine, exact, seed=1, shard_bytes=message.text_bytes)
            for texts in pieces:
                began = time.perf_counter()
                engine.encode(texts)
                encoded = time.perf_counter()
                sampled.encode(texts)
                seconds["encode"] += encoded - began
                # What it takes more than encoding alone; by then the engine has seen every word.
                seconds["sample"] += max(0.0, time.perf_counter() - encoded - (encoded - began))
        return seconds


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
