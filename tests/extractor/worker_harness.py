"""A worker's storage with a tokenization and a tiny model, and the tasks that read them."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa

from polytok.extractor.v1 import extractions_pb2, tasks_pb2
from services.activations import tokenizations
from services.extractor.worker import model_cache
from services.extractor.worker.tasks import plan_task, publish_task, range_task
from services.jobs.task_process_main import TaskContext
from services.runtime.storage import Storage
from tests.activations import tiny_models

NAME = "datasets/docs/tokenizations/gpt2"
KEY = "datasets/d/raw_tokenized_m"
ROWS, LENGTH = 40, 16


@dataclasses.dataclass
class WorkerHarness:
    """A worker's storage, a tokenization in it, and a model beside it."""

    storage: Storage
    model: pathlib.Path
    digest: str
    files: list[str]

    def __post_init__(self) -> None:
        self.reader = tokenizations.TokenizationReader(self.storage)
        self.loaded = model_cache.ModelCache()

    def order(self, **parameters: Any) -> tasks_pb2.ExtractionOrder:
        """Return an order of one hook, or of what is given."""
        formats = {"compute_format": 1, "storage_format": 1, "nonfinite": 1}
        fields = {"hooks": ["blocks.1.hook_resid_post"], "context_size": 8} | formats | parameters
        return tasks_pb2.ExtractionOrder(
            name="extractions/mine",
            tokenization=NAME,
            tokenization_key=KEY,
            manifest_digest=self.digest,
            model="models/gpt2",
            model_repo_id=str(self.model),
            parameters=extractions_pb2.ExtractionParameters(**fields),
            extraction_key="extractions/e",
        )

    def plan(self, order: tasks_pb2.ExtractionOrder, range_bytes: int = 1 << 20) -> tasks_pb2.PlanExtractionResult:
        """Do the first task."""
        task = tasks_pb2.PlanExtractionTask(order=order, range_bytes=range_bytes)
        return plan_task.plan(task, self.storage, self.reader, self.loaded)

    def extract(
        self, order: tasks_pb2.ExtractionOrder, plan: tasks_pb2.PlanExtractionResult
    ) -> list[tasks_pb2.ExtractRangeResult]:
        """Do a task for each range."""
        return [
            range_task.extract(
                tasks_pb2.ExtractRangeTask(order=order, range=each, ordinal=ordinal, count=len(plan.ranges)),
                self.storage,
                self.reader,
                self.loaded,
                context(ordinal),
            )
            for ordinal, each in enumerate(plan.ranges)
        ]

    def publish(
        self, order: tasks_pb2.ExtractionOrder, ranges: list[tasks_pb2.ExtractRangeResult]
    ) -> tasks_pb2.PublishExtractionResult:
        """Do the last task, and give the files their names."""
        task = tasks_pb2.PublishExtractionTask(order=order, ranges=ranges)
        found = publish_task.publish(task, self.storage, context(99))
        for file in found.staged_files:
            self.storage.move(file.staged_key, file.final_key)
        return found


def context(number: int = 0) -> TaskContext:
    """Return what a task receives besides its payload."""
    return TaskContext(f"{number:012d}-0000", 1, b"", lambda _: None)


def create_worker_harness(
    folder: pathlib.Path, *, largest: int = tiny_models.ROWS - 1, padding: int = 0, **changes: Any
) -> WorkerHarness:
    """Write a tokenization of two files with ids up to `largest`, and a model's folder with these changes.

    Row n begins with n tokens of padding, up to so many.
    """
    storage = Storage(str(folder / "storage"))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, largest + 1, (ROWS, LENGTH)).astype(np.int32)
    ids[-1, -1] = largest
    files = []
    for number, part in enumerate(np.split(ids, [ROWS // 2])):
        columns = {"input_ids": part}
        if padding:
            pads = np.minimum(np.arange(len(part)) + number * (ROWS // 2), padding)
            columns["attention_mask"] = (np.arange(LENGTH) >= pads[:, None]).astype(np.int32)
        lists = pa.list_(pa.int32())
        table = pa.table(
            {
                name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), LENGTH).cast(lists)
                for name, values in columns.items()
            }
        )
        key = f"{KEY}/shard-{number:05d}.arrow"
        with storage.create(key) as staged, pa.ipc.new_stream(staged, table.schema) as stream:
            stream.write_table(table)
        files.append(
            {"name": f"shard-{number:05d}.arrow", "num_rows": len(part)}
            | {"size_bytes": staged.size, "sha256": staged.sha256}
        )
    manifest = {
        "name": NAME,
        "files": files,
        "parameters": {},
        "tokenizer": {"vocab_size": largest + 1},
        "statistics": {},
    }
    data = json.dumps(manifest).encode()
    storage.write_bytes(f"{KEY}/polytok.json", data)
    model = tiny_models.save("gpt2", folder / "gpt2", **changes)
    return WorkerHarness(storage, model, hashlib.sha256(data).hexdigest(), [f"{KEY}/{file['name']}" for file in files])
