"""An ingest without its job: plan, read each part, publish, and what the catalog does at commit."""

import pathlib
from collections.abc import Sequence
from typing import Any

import datasets
import pyarrow as pa

from polytok.catalog.v1 import datasets_pb2, tasks_pb2
from services.catalog.ingest import plan_task, publish_task, read_task
from services.runtime.storage import Storage

RAW = "datasets/d/raw"
SHARD_BYTES = 64 << 20


def no_report(done: int, total: int) -> None:
    assert done >= 0
    assert total >= 0


class IngestHarness:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def plan(self, source: datasets_pb2.DatasetSource) -> list[tasks_pb2.IngestPart]:
        return list(plan_task.plan(tasks_pb2.PlanIngestTask(source=source)).parts)

    def read(
        self,
        part: tasks_pb2.IngestPart,
        ordinal: int = 0,
        shard_bytes: int = SHARD_BYTES,
        report: Any = no_report,
        **options: Any,
    ) -> tasks_pb2.ReadPartResult:
        task = tasks_pb2.ReadPartTask(part=part, raw_key=RAW, ordinal=ordinal, shard_bytes=shard_bytes, **options)
        return read_task.read(self.storage, task, f"task{ordinal}-e1", report)

    def run(self, source: datasets_pb2.DatasetSource, shard_bytes: int = SHARD_BYTES) -> tasks_pb2.PublishDatasetResult:
        result = self._published(source, shard_bytes)
        if result.untyped_columns:
            result = self._published(source, shard_bytes, untyped_columns=result.untyped_columns)
        for staged in result.staged_files:
            self.storage.verify(staged.staged_key, staged.sha256)
            self.storage.move(staged.staged_key, staged.final_key)
        return result

    def _published(
        self, source: datasets_pb2.DatasetSource, shard_bytes: int, **options: Any
    ) -> tasks_pb2.PublishDatasetResult:
        parts = [
            self.read(part, ordinal, shard_bytes, columns=source.columns, **options)
            for ordinal, part in enumerate(self.plan(source))
        ]
        task = tasks_pb2.PublishDatasetTask(raw_key=RAW, parts=parts, shard_bytes=shard_bytes)
        return publish_task.publish(self.storage, task, "publish-e1", no_report)

    def files(
        self,
        *uris: pathlib.Path | str,
        format: datasets_pb2.FileSource.Format.ValueType = datasets_pb2.FileSource.FORMAT_UNSPECIFIED,  # noqa: A002
        shard_bytes: int = SHARD_BYTES,
        columns: Sequence[str] = (),
        **options: Any,
    ) -> tasks_pb2.PublishDatasetResult:
        source = files(*uris, format=format, **options)
        source.columns.extend(columns)
        return self.run(source, shard_bytes)

    def dataset(self) -> datasets.Dataset:
        return datasets.load_from_disk(self.storage.uri(RAW))

    def batches(self, shard: tasks_pb2.RawShard) -> list[pa.RecordBatch]:
        with self.storage.open(shard.key) as file, pa.ipc.open_stream(file) as reader:
            return list(reader)

    def stored(self) -> list[str]:
        """Keys of whatever lies in the storage, half-written files too."""
        return self.storage.list("datasets")


def files(
    *uris: pathlib.Path | str,
    format: datasets_pb2.FileSource.Format.ValueType = datasets_pb2.FileSource.FORMAT_UNSPECIFIED,  # noqa: A002
    **options: Any,
) -> datasets_pb2.DatasetSource:
    return datasets_pb2.DatasetSource(
        files=datasets_pb2.FileSource(uris=[str(uri) for uri in uris], format=format, **options)
    )
